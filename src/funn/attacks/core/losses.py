"""Input gradients of the cross-entropy, which the single-step and iterative attacks climb."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from funn.attacks.core.interface import Model
from funn.attacks.core.tally import Tally


def cross_entropy_gradient(logits: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    """Differentiate the cross-entropy of each image.

    Args:
        logits: (B, K), computed from `x`.
        labels: (B,).
        x: (N, C, H, W), requires a gradient.

    Returns:
        (N, C, H, W); zero for an image whose gradient is not finite, so that it does not move.
    """
    return finite_gradient(F.cross_entropy(logits, labels, reduction="none"), x)


def finite_gradient(values: Tensor, x: Tensor) -> Tensor:
    """Differentiate each image's value (B,) with respect to x (N, C, H, W).

    Returns:
        (N, C, H, W); zero for an image whose gradient is not finite, so that it does not move.
    """
    # The sum, for the mean would make an image's gradient depend on the size of its batch.
    gradient: Tensor = torch.autograd.grad(values.sum(), x)[0]
    finite = gradient.flatten(1).sum(1).isfinite()  # a sum with infinity or NaN is not
    return gradient if finite.all() else gradient.where(finite[:, None, None, None], 0.0)


def clean_gradients(
    model: Model, images: Tensor, labels: Tensor, batch_size: int
) -> tuple[Tally, Tensor, Tensor]:
    """Predict the clean images, and differentiate where the prediction is right.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        batch_size: most images in one forward pass.

    Returns:
        The tally; the indices (M,) of the images that are left to attack; their gradients
        (M, C, H, W).
    """
    tally = Tally(images)
    active, gradients = [torch.arange(0, device=images.device)], [images[:0]]
    for batch in torch.arange(len(images), device=images.device).split(batch_size):
        x = images[batch].requires_grad_()
        if not len(batch):
            continue
        logits = model(x)
        kept = tally.judge(batch, logits.detach(), labels[batch], 0)
        if not kept.any():
            continue
        active.append(batch[kept])
        gradients.append(cross_entropy_gradient(logits[kept], labels[batch][kept], x)[kept])
        tally.differentiated(batch[kept], gradients[-1])
    return tally, torch.cat(active), torch.cat(gradients)
