"""How many entries of the input gradient are exactly zero: where attacks by gradient are blind."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.attacks.core.interface import untouched
from funn.data.images import Images
from funn.evaluation.records.verification import margins

# Shares of a thousand images are known to 3 %; all of them would take minutes of a large network.
FIRST = 1000

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum"),
    "margin": lambda logits, labels: margins(logits, labels).sum(),
}


def gradient_zeros(model: nn.Module, test: Images, batch_size: int) -> dict[str, Any]:
    """Count the zeros in the gradients of the cross-entropy and of the margin, in float32.

    A cross-entropy whose softmax rounds to exactly 1 has no gradient at all; the margin of the same
    logits has one. Zeros of both come from the network: dead ReLUs, a saturated activation.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, classes), as the attacks see it.
        test: the first thousand of these are measured, at their labels.
        batch_size: most images in one pass.

    Returns:
        `images` and `entries`, the number of images and of entries of a gradient; for each loss
        `counts`, the number of images by their number of zero entries (as text), and `all_zero`,
        the share of the images whose whole gradient is zero.
    """
    x, labels = test.floats(FIRST), test.labels[:FIRST]
    entries = x[0].numel()
    content: dict[str, Any] = {"images": len(x), "entries": entries}
    for name, loss in LOSSES.items():
        zeros = torch.cat(
            [
                zero_entries(model, loss, *batch)
                for batch in zip(x.split(batch_size), labels.split(batch_size), strict=True)
            ]
        )
        counts = torch.bincount(zeros, minlength=entries + 1)
        content[name] = {
            "counts": {str(zero): int(counts[zero]) for zero in counts.nonzero()[:, 0].tolist()},
            "all_zero": float(counts[entries]) / len(x),
        }
    return content


def zero_entries(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, labels: Tensor
) -> Tensor:
    """Return the number of exact zeros in the gradient of each image, (N,) int64.

    Args:
        model: as in `gradient_zeros`.
        loss: a sum over images, of logits (N, classes) and labels (N,).
        x: images (N, C, H, W).
        labels: (N,).
    """
    x = x.clone().requires_grad_()
    with untouched(model):
        total = loss(model(x), labels)
        if not total.requires_grad:  # a user's classifier that has no gradient at all
            return torch.full_like(labels, x[0].numel())
        (gradient,) = torch.autograd.grad(total, x, materialize_grads=True)
    return (gradient == 0).flatten(1).sum(1)
