"""Which modules do what their class says, and nothing else: what a faster form may stand for.

A hook, a parametrisation, a `forward` replaced on the instance or in a subclass, a compiled call:
with any of them a layer may compute something else than its class and its parameters tell.
"""

import copy
from collections import OrderedDict
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

Model = TypeVar("Model", bound=nn.Module)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is exactly of one of the kinds, with at most a weight and a bias of its own.

    A subclass of a kind is not of the kind.
    """
    own = {name for name, value in layer._parameters.items() if type(value) is nn.Parameter}
    return (
        type(layer) in kinds
        and calls_forward_alone(layer)
        and {name for name, value in layer._parameters.items() if value is not None} == own
        and own <= {"weight", "bias"}
        and not layer._buffers
        and not layer._modules
    )


def is_chain(module: nn.Module) -> bool:
    """Whether a module is an `nn.Sequential`, or a subclass that changes nothing of its forward."""
    kind = type(module)
    return (
        issubclass(kind, nn.Sequential)
        and kind.forward is nn.Sequential.forward
        and kind.__iter__ is nn.Sequential.__iter__
        and calls_forward_alone(module)
        and not module._parameters
    )


def calls_forward_alone(module: nn.Module) -> bool:
    """Whether calling a module runs its class's `forward`, without hooks and uncompiled."""
    kind = type(module)
    return (
        kind.__call__ is nn.Module.__call__
        and kind._call_impl is nn.Module._call_impl
        and not {"forward", "_call_impl"} & vars(module).keys()
        and vars(module).get("_compiled_call_impl") is None
        and not any(getattr(module, name) for name in _HOOKS)
        and not torch_module._has_any_global_hook()
    )


def copied(model: Model) -> Model:
    """A deep copy of a model; what its last forward pass left in its attributes is detached.

    torch alone refuses such a model: one with `weight_norm` or pruning by hooks, for example.
    """
    memo = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, memo)


def adopt(fast: nn.Module, layer: nn.Module) -> None:
    """Give a faster form all that a layer has, so that other code reads the same of it.

    The parameters are shared: the same objects.
    """
    for name, value in vars(layer).items():
        copied: Any = type(value)(value) if isinstance(value, dict | OrderedDict) else value
        vars(fast)[name] = copied
