"""Networks whose layers are known one by one, and may be computed in another way than forward."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from funn.runtime.convolution import ThinConv2d
from funn.runtime.linear import DenseProduct
from funn.runtime.plain_layers import is_chain, is_plain


class Chain(NamedTuple):
    """Convolutions with ReLU, a linear layer on the flattened maps, and the rest.

    Attributes:
        convolutions: square ones, without dilation or groups, each with a ReLU behind it.
        linear: on the flattened maps.
        rest: from the linear layer's output to logits.
    """

    convolutions: Sequence[nn.Conv2d]
    linear: nn.Linear
    rest: nn.Sequential


def known_chain(model: nn.Module) -> Chain | None:
    """Return the layers of a network, or None if it is built in another way.

    Each must be exactly what its class says, without hooks and parametrisations; so must what holds
    them.
    """
    layers, convolutions = _flat(model), []
    while len(layers) > 1 and _is_square(layers[0]) and is_plain(layers[1], nn.ReLU):
        convolutions.append(layers[0])
        layers = layers[2:]
    if not convolutions or len(layers) < 2 or not _flattens(layers[0]) or not _is_dense(layers[1]):
        return None
    if not all(_is_dense(layer) or is_plain(layer, nn.ReLU) for layer in layers[2:]):
        return None
    return Chain(convolutions, layers[1], nn.Sequential(*layers[2:]))  # type: ignore[arg-type]


def _flat(model: nn.Module) -> list[nn.Module]:
    """The layers of a network that passes through one after the other."""
    if isinstance(model, nn.Sequential) and is_chain(model):
        return [layer for child in model for layer in _flat(child)]
    return [model]


def _is_square(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and is_plain(layer, nn.Conv2d, ThinConv2d)
        and all(len(set(size)) == 1 for size in (layer.kernel_size, layer.stride, layer.padding))
        and not isinstance(layer.padding, str)
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
    )


def _is_dense(layer: nn.Module) -> bool:
    return is_plain(layer, nn.Linear, DenseProduct)


def _flattens(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Flatten)
        and is_plain(layer, nn.Flatten)
        and (layer.start_dim, layer.end_dim) == (1, -1)
    )
