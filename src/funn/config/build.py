"""Build objects from configuration: `_target_` in a YAML file is the only registry."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from funn.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def locate(spec: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the class or function that `spec["_target_"]` names.

    Raises:
        UserError: if there is no such name.
    """
    target = spec.get("_target_")
    if not isinstance(target, str):
        raise UserError(f"{dict(spec)} names no _target_ (a dotted path such as package.Class)")
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_={target} cannot be imported: {error}") from error
    if not callable(found):
        raise UserError(f"_target_={target} is not a class or a function")
    return found  # type: ignore[no-any-return]


def options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a spec: all that is not its `_target_`."""
    return {key: value for key, value in spec.items() if key != "_target_"}


def build(spec: Mapping[str, Any], *args: Any, **extra: Any) -> Any:
    """Call the target of `spec` with its options, `args` and `extra`.

    Raises:
        UserError: if the target does not exist, does not take an option, or refuses a value
            (a `ValueError` from its constructor).
    """
    target = locate(spec)
    arguments = options(spec) | extra
    try:
        inspect.signature(target).bind(*args, **arguments)
    except TypeError as error:
        raise UserError(f"{spec['_target_']} cannot be called so: {error}") from error
    try:
        return target(*args, **arguments)
    except ValueError as error:
        raise UserError(f"{spec['_target_']}: {error}") from error


def function(spec: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the target of `spec` as a function with the spec's options bound."""
    return partial(locate(spec), **options(spec))


def build_module(spec: Mapping[str, Any], **extra: Any) -> "nn.Module":
    """Build a network, and nothing else: a checkpoint's spec must not call arbitrary functions.

    Raises:
        UserError: if the target is not a class of networks, or as in `build`.
    """
    from torch import nn

    target = locate(spec)
    if not (isinstance(target, type) and issubclass(target, nn.Module)):
        raise UserError(f"_target_={spec['_target_']} is not a torch.nn.Module")
    module: nn.Module = build(spec, **extra)
    return module
