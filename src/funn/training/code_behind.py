"""The code behind a result: every module that it imports, hashed so that only code counts.

From the modules that compute something the imports are followed into every module that is not of
an installed package, a user's own included; of the installed ones the versions are taken down.
Comments, docstrings, layout, the order of imports and where a file lies change nothing.
"""

import ast
import hashlib
import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# This project's own code counts wherever it is installed.
_OURS = __name__.partition(".")[0]
# Modules of ours that no figure depends on: what is said, where files lie and how they are written,
# what is typed (its values are hashed), and this mechanism itself.
_NO_MATTER = frozenset(
    f"{_OURS}.{name}"
    for name in (
        "training.code_behind", "config.compose", "errors", "artifacts.files",
        "training.fingerprint", "artifacts.metric_log", "artifacts.provenance", "config.schema",
        "artifacts.folder", "artifacts.layout", "artifacts.tracking",
        "artifacts.tracked_evaluation", "config.title",
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


class _Import(NamedTuple):
    """One name that a module imports.

    Attributes:
        module: the module it comes from, or is.
        name: what is imported of it; empty for the module itself.
        alias: what it is called here.
    """

    module: str
    name: str
    alias: str


def code_behind(modules: Iterable[str]) -> Code:
    """Follow the imports of some modules, by their dotted names, through any number of steps."""
    found: dict[str, str] = {}
    packages = {"python": ".".join(platform.python_version_tuple()[:2])}
    waiting = [defining_module(name) for name in modules]
    while waiting:
        module = waiting.pop()
        if module in found or module in _NO_MATTER:
            continue
        if not _is_followed(module):
            packages |= _versions(module)
            continue
        found[module] = _module_hash(module)
        waiting += [name for name in _parents(module) if _acts(name)]
        waiting += [item.module for item in _imports(module)]
    return Code(found, dict(sorted(packages.items())))


def defining_module(target: str) -> str:
    """The module that defines what a dotted path names: a module, or an attribute of one."""
    module, *rest = target.split(".")
    while rest and _has_module(module, rest[0]):
        module = f"{module}.{rest.pop(0)}"
    return _definer(module, rest[0]).module if rest else module


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
    for function in (_spec, _is_followed, _text, _tree, _body_hash, _wordless_hash, _imports,
                     _module_hash, _acts):  # fmt: skip
        function.cache_clear()


@cache
def _module_hash(module: str) -> str:
    """Hash a module's code and what it imports, each name by the code of where it comes from."""
    imported = sorted((_origin_hash(item.module), *item[1:]) for item in _imports(module))
    return _hash(_body_hash(module), repr(imported))


def _origin_hash(module: str) -> str:
    if module in _NO_MATTER:
        return ""
    return _body_hash(module) if _is_followed(module) else module


@cache
def _body_hash(module: str) -> str:
    """Hash a module's code without its imports, comments, docstrings and layout."""
    tree = _tree(module)
    if tree is None:
        return _hash(_text(module).hex())
    return _hash(ast.dump(_Placeless().visit(ast.parse(_text(module)))))


@cache
def _wordless_hash(module: str) -> str:
    """Hash a module's code without its texts either, which may name the module that names it."""
    if _tree(module) is None:
        return _hash(_text(module).hex())
    return _hash(ast.dump(_Wordless().visit(ast.parse(_text(module)))))


class _Placeless(ast.NodeTransformer):
    """Takes out of code what changes where a file moves or a comment is written."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _is_text(item)]  # type: ignore[attr-defined]
        return node

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if _is_for_types(node) else self.generic_visit(node)

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
    if not _DOTTED.fullmatch(text) or not _is_followed(text.partition(".")[0]):
        return text
    module = defining_module(text)
    if not _is_followed(module) or _spec(module) is None:
        return text
    return _wordless_hash(module) if module == text else text.rpartition(".")[2]


@cache
def _imports(module: str) -> tuple[_Import, ...]:
    tree = _tree(module)
    return () if tree is None else tuple(_found(tree, module))


def _found(node: ast.AST, module: str) -> Iterator[_Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield _Import(alias.name, "", alias.asname or alias.name.partition(".")[0])
        elif isinstance(child, ast.ImportFrom):
            origin = _absolute(child, module)
            for alias in child.names:
                yield _definer(origin, alias.name)._replace(alias=alias.asname or alias.name)
        elif not (isinstance(child, ast.If) and _is_for_types(child)):
            yield from _found(child, module)


def _definer(origin: str, name: str) -> _Import:
    """Where `from origin import name` gets it from: through the `__init__` of a package.

    That of a package itself counts only if it defines the name: else one attack would depend on all
    others, which the package shows beside it.
    """
    if _has_module(origin, name):
        return _Import(f"{origin}.{name}", "", name)
    tree = _tree(origin) if _is_package(origin) and _is_followed(origin) else None
    for node in () if tree is None else tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definer(_absolute(node, origin), alias.name)
    return _Import(origin, name, name)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that an import names, also relative to the one that it stands in."""
    if not node.level:
        return str(node.module)
    package = module if _is_package(module) else module.rpartition(".")[0]
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


@cache
def _acts(package: str) -> bool:
    """Whether a package's `__init__` does something as it is imported, beside defining names."""
    tree = _tree(package)
    harmless = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    return tree is not None and any(
        not isinstance(node, harmless)
        and not _is_text(node)
        and not (isinstance(node, ast.If) and _is_for_types(node))
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        for node in tree.body
    )


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _versions(module: str) -> dict[str, str]:
    """The versions of the distributions that a top-level name belongs to; none of Python's own."""
    top = module.partition(".")[0]
    if _spec(top) is None:
        return {top: "absent"}
    return {name: _version(name) for name in _distributions().get(top, ())}


@cache
def _version(distribution: str) -> str:
    return version(distribution)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@cache
def _is_followed(module: str) -> bool:
    """Whether a module is ours or a user's: of no installed package, and not Python's own."""
    top = module.partition(".")[0]
    if top == _OURS:
        return True
    spec = _spec(top)
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return any(_is_outside(Path(place)) for place in places if place not in ("built-in", "frozen"))


def _is_outside(place: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(place.parts):
        return False
    standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    return not any(place.is_relative_to(path) for path in standard if path)


def _has_module(package: str, name: str) -> bool:
    """Whether a package has a module of a name; what is no package is not imported to find out."""
    return _is_package(package) and _spec(f"{package}.{name}") is not None


def _is_package(module: str) -> bool:
    spec = _spec(module)
    return spec is not None and spec.submodule_search_locations is not None


@cache
def _spec(module: str) -> ModuleSpec | None:
    try:
        return find_spec(module)
    except (ImportError, AttributeError, ValueError):  # of what is no package, or __main__
        return None


@cache
def _tree(module: str) -> ast.Module | None:
    """The syntax of a module's source; None for a compiled one, or a folder without a file."""
    spec = _spec(module)
    if spec is None or not (spec.origin or "").endswith(".py"):
        return None
    return ast.parse(_text(module))


@cache
def _text(module: str) -> bytes:
    spec = _spec(module)
    place = Path(spec.origin) if spec is not None and spec.origin else None
    return place.read_bytes() if place is not None and place.is_file() else b""


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_for_types(node: ast.If) -> bool:
    return ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
