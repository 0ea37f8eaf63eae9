"""What a module's source says: its syntax, and which modules it imports, without running it."""

import ast
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

# This project's own code counts wherever it is installed.
_OURS = __name__.partition(".")[0]


class Import(NamedTuple):
    """One name that a module imports.

    Attributes:
        module: the module it comes from, or is.
        name: what is imported of it; empty for the module itself.
        alias: what it is called here.
    """

    module: str
    name: str
    alias: str


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """What a module imports, also inside functions, but not for types alone."""
    tree = tree_of(module)
    return () if tree is None else tuple(_found(tree, module))


def _found(node: ast.AST, module: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, "", alias.asname or alias.name.partition(".")[0])
        elif isinstance(child, ast.ImportFrom):
            origin = _absolute(child, module)
            for alias in child.names:
                yield definer(origin, alias.name)._replace(alias=alias.asname or alias.name)
        elif not (isinstance(child, ast.If) and is_for_types(child)):
            yield from _found(child, module)


def definer(origin: str, name: str) -> Import:
    """Where `from origin import name` gets it from: through the `__init__` of a package.

    That of a package itself counts only if it defines the name: else one attack would depend on all
    others, which the package shows beside it.
    """
    if has_module(origin, name):
        return Import(f"{origin}.{name}", "", name)
    tree = tree_of(origin) if _is_package(origin) and is_followed(origin) else None
    for node in () if tree is None else tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definer(_absolute(node, origin), alias.name)
    return Import(origin, name, name)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that an import names, also relative to the one that it stands in."""
    if not node.level:
        return str(node.module)
    package = module if _is_package(module) else module.rpartition(".")[0]
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


@cache
def acts(package: str) -> bool:
    """Whether a package's `__init__` does something as it is imported, beside defining names."""
    tree = tree_of(package)
    harmless = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    return tree is not None and any(
        not isinstance(node, harmless)
        and not is_text(node)
        and not (isinstance(node, ast.If) and is_for_types(node))
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        for node in tree.body
    )


def parents_of(module: str) -> list[str]:
    """The packages that a module lies in, outermost first."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def versions_of(module: str) -> dict[str, str]:
    """The versions of the distributions that a top-level name belongs to; none of Python's own."""
    top = module.partition(".")[0]
    if spec_of(top) is None:
        return {top: "absent"}
    return {name: _version(name) for name in _distributions().get(top, ())}


@cache
def _version(distribution: str) -> str:
    return version(distribution)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@cache
def is_followed(module: str) -> bool:
    """Whether a module is ours or a user's: of no installed package, and not Python's own."""
    top = module.partition(".")[0]
    if top == _OURS:
        return True
    spec = spec_of(top)
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return any(_is_outside(Path(place)) for place in places if place not in ("built-in", "frozen"))


def _is_outside(place: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(place.parts):
        return False
    standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    return not any(place.is_relative_to(path) for path in standard if path)


def has_module(package: str, name: str) -> bool:
    """Whether a package has a module of a name; what is no package is not imported to find out."""
    return _is_package(package) and spec_of(f"{package}.{name}") is not None


def _is_package(module: str) -> bool:
    spec = spec_of(module)
    return spec is not None and spec.submodule_search_locations is not None


@cache
def spec_of(module: str) -> ModuleSpec | None:
    """Where a module lies; None if it cannot be found."""
    try:
        return find_spec(module)
    except (ImportError, AttributeError, ValueError):  # of what is no package, or __main__
        return None


@cache
def tree_of(module: str) -> ast.Module | None:
    """The syntax of a module's source; None for a compiled one, or a folder without a file."""
    spec = spec_of(module)
    if spec is None or not (spec.origin or "").endswith(".py"):
        return None
    return ast.parse(text_of(module))


@cache
def text_of(module: str) -> bytes:
    """The bytes of a module's file; none without one."""
    spec = spec_of(module)
    place = Path(spec.origin) if spec is not None and spec.origin else None
    return place.read_bytes() if place is not None and place.is_file() else b""


def is_text(node: ast.AST) -> bool:
    """Whether a statement is nothing but a text, such as a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_for_types(node: ast.If) -> bool:
    """Whether a block is for type checkers alone."""
    return ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"
