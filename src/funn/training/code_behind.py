"""The code behind a result: every module that it imports, hashed so that only code counts.

From the modules that compute something the imports are followed into every module that is not of
an installed package, a user's own included; of the installed ones the versions are taken down.
Comments, docstrings, layout, the order of imports and where a file lies change nothing.
"""

import ast
import hashlib
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from funn.training.module_source import (
    acts,
    definer,
    has_module,
    imports_of,
    is_followed,
    is_for_types,
    is_text,
    parents_of,
    spec_of,
    text_of,
    tree_of,
    versions_of,
)

_OURS = __name__.partition(".")[0]
# Modules of ours that no figure depends on: what is said, where files lie and how they are written,
# what is typed (its values are hashed), and this mechanism itself.
_NO_MATTER = frozenset(
    f"{_OURS}.{name}"
    for name in (
        "training.code_behind", "config.compose", "errors", "artifacts.files",
        "training.fingerprint", "artifacts.metric_log", "artifacts.provenance", "config.schema",
        "artifacts.folder", "artifacts.layout", "artifacts.tracking",
        "artifacts.tracked_evaluation", "config.suite", "config.title",
    )
)  # fmt: skip
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


class Code(NamedTuple):
    """What a computation consists of.

    Attributes:
        modules: the hash of each module outside the installed packages, by its name.
        packages: the version of each installed package that these import, and of Python.
    """

    modules: Mapping[str, str]
    packages: Mapping[str, str]

    def facts(self) -> dict[str, Any]:
        """What a fingerprint holds of it: the names of the modules do not count."""
        return {"code": sorted(self.modules.values()), "packages": dict(self.packages)}


def code_behind(modules: Iterable[str]) -> Code:
    """Follow the imports of some modules, by their dotted names, through any number of steps."""
    found: dict[str, str] = {}
    packages = {"python": ".".join(platform.python_version_tuple()[:2])}
    waiting = [defining_module(name) for name in modules]
    while waiting:
        module = waiting.pop()
        if module in found or module in _NO_MATTER:
            continue
        if not is_followed(module):
            packages |= versions_of(module)
            continue
        found[module] = _module_hash(module)
        waiting += [name for name in parents_of(module) if acts(name)]
        waiting += [item.module for item in imports_of(module)]
    return Code(found, dict(sorted(packages.items())))


def defining_module(target: str) -> str:
    """The module that defines what a dotted path names: a module, or an attribute of one."""
    module, *rest = target.split(".")
    while rest and has_module(module, rest[0]):
        module = f"{module}.{rest.pop(0)}"
    return definer(module, rest[0]).module if rest else module


def targets(value: Any) -> Iterator[str]:
    """Every `_target_` in a nested configuration."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        for item in value.values():
            yield from targets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from targets(item)


def placeless(value: Any) -> Any:
    """A nested configuration in which each `_target_` is named by its code, not by its place."""
    if isinstance(value, Mapping):
        return {
            key: _placeless_path(item) if key == "_target_" and isinstance(item, str)
            else placeless(item)
            for key, item in value.items()
        }  # fmt: skip
    return [placeless(item) for item in value] if isinstance(value, list | tuple) else value


def forget_code() -> None:
    """Read every file anew: code may have changed since."""
    for function in (spec_of, is_followed, text_of, tree_of, _body_hash, _wordless_hash, imports_of,
                     _module_hash, acts):  # fmt: skip
        function.cache_clear()


@cache
def _module_hash(module: str) -> str:
    """Hash a module's code and what it imports, each name by the code of where it comes from."""
    imported = sorted((_origin_hash(item.module), *item[1:]) for item in imports_of(module))
    return _hash(_body_hash(module), repr(imported))


def _origin_hash(module: str) -> str:
    if module in _NO_MATTER:
        return ""
    return _body_hash(module) if is_followed(module) else module


@cache
def _body_hash(module: str) -> str:
    """Hash a module's code without its imports, comments, docstrings and layout."""
    tree = tree_of(module)
    if tree is None:
        return _hash(text_of(module).hex())
    return _hash(ast.dump(_Placeless().visit(ast.parse(text_of(module)))))


@cache
def _wordless_hash(module: str) -> str:
    """Hash a module's code without its texts either, which may name the module that names it."""
    if tree_of(module) is None:
        return _hash(text_of(module).hex())
    return _hash(ast.dump(_Wordless().visit(ast.parse(text_of(module)))))


class _Placeless(ast.NodeTransformer):
    """Takes out of code what changes where a file moves or a comment is written."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not is_text(item)]  # type: ignore[attr-defined]
        return node

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if is_for_types(node) else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            return ast.Constant(_placeless_path(node.value))
        return node


class _Wordless(_Placeless):
    """Takes out every text too."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node


def _placeless_path(text: str) -> str:
    """A dotted path to something in a module of ours or a user's, without where that lies."""
    if not _DOTTED.fullmatch(text) or not is_followed(text.partition(".")[0]):
        return text
    module = defining_module(text)
    if not is_followed(module) or spec_of(module) is None:
        return text
    return _wordless_hash(module) if module == text else text.rpartition(".")[2]


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
