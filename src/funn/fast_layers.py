"""The layers of a network that have a faster form on a CPU, in its place: same mathematics."""

import logging

import torch
from torch import Tensor, nn

from funn.runtime.convolution import thin
from funn.runtime.linear import DenseProduct
from funn.runtime.plain_layers import copied, is_plain
from funn.runtime.seeding import generator, seeded

log = logging.getLogger(__name__)

# Rounding moves logits and gradients by a few millionths of their length.
_LOGITS, _GRADIENTS = 1e-4, 1e-3
# The share of the images whose gradient may differ: at a kink of a ReLU rounding decides.
_KINKS = 0.2


def with_fast_layers(model: nn.Module, images: Tensor | None = None) -> nn.Module:
    """Return a copy of a model whose layers are in their faster forms.

    Only layers that are exactly torch's own, without hooks and parametrisations, have one.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K).
        images: a few images (N, C, H, W) in [0, 1], on which logits and input gradients are
            compared with the model's own. Where they differ by more than rounding, as may be where
            a model looks at its layers' types, the copy keeps its own layers, with a warning.
            None: not compared.
    """
    fast = copied(model)
    use_fast_layers(fast)
    if images is None or _alike(copied(model), copied(fast), images):
        return fast
    log.warning(
        "%s: the faster forms of its layers give other logits or gradients than its own, which are "
        "used instead",
        type(model).__name__,
    )
    return copied(model)


def use_fast_layers(model: nn.Module) -> None:
    """Replace, in place, the layers of a model by their faster forms.

    The parameters, their names and the state dict stay the same, and what other code reads of a
    layer.
    """
    for name, module in list(model.named_modules()):
        fast = DenseProduct(module) if is_plain(module, nn.Linear) else thin(module)
        if name and fast is not None:
            model.set_submodule(name, fast)


def _alike(own: nn.Module, fast: nn.Module, images: Tensor) -> bool:
    """Whether two copies of a model have the same logits and input gradients, but for rounding.

    What a model draws from torch's global generator is drawn alike for both.
    """
    logits, gradients = _passes(own, images)
    fast_logits, fast_gradients = _passes(fast, images)
    if logits.shape != fast_logits.shape or (gradients is None) != (fast_gradients is None):
        return False
    if not bool((_apart(logits, fast_logits) <= _LOGITS).all()):
        return False
    if gradients is None or fast_gradients is None:
        return True
    return float((_apart(gradients, fast_gradients) > _GRADIENTS).float().mean()) <= _KINKS


def _passes(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """The logits (N, K) and, where there is one, the gradient (N, C, H, W) of a mixture of them."""
    model.eval().requires_grad_(False)
    with seeded("fast layers"), torch.inference_mode(False), torch.enable_grad():
        start = images.detach().clone().requires_grad_()
        logits: Tensor = model(start.clone())
        if not logits.requires_grad:
            return logits, None
        mixture = torch.randn(logits.shape[1:], generator=generator("mixture")).to(logits)
        total = (logits * mixture).sum()
        gradient: Tensor = torch.autograd.grad(total, start, materialize_grads=True)[0]
        return logits.detach(), gradient


def _apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """The relative L2 distance (N,) of what belongs to each of N images; infinite for NaN."""
    ours, theirs = ours.flatten(1), theirs.flatten(1)
    distance: Tensor = (ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp(min=1e-30)
    return distance.nan_to_num(nan=torch.inf, posinf=torch.inf)
