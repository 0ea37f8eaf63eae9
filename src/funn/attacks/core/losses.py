"""What attacks climb or descend, from logits, and its gradient at the images."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from funn.attacks.core.norms import per_image


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """z_label - the highest other logit, (B,), of logits (B, K): negative where misclassified.

    Unlike the cross-entropy it has a slope where the classifier is certain.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    # `max`, not `amax`, which would share the slope among tied classes.
    others: Tensor = logits.scatter(1, labels[:, None], -torch.inf).max(1).values
    return own - others


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """z_target - z_label (B,), of logits (B, K): positive where the target is ahead."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each image (B,), of logits (B, K)."""
    return F.cross_entropy(logits, labels, reduction="none")


def cross_entropy_gradient(logits: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    """Differentiate the cross-entropy of each image.

    Args:
        logits: (B, K), computed from `x`.
        labels: (B,).
        x: (N, C, H, W), requires a gradient.

    Returns:
        (N, C, H, W); zero for an image whose gradient is not finite, so that it does not move.
    """
    return finite_gradient(cross_entropy(logits, labels), x)


def finite_gradient(values: Tensor, x: Tensor) -> Tensor:
    """Differentiate each image's value (B,) with respect to x (N, C, H, W).

    Returns:
        (N, C, H, W); zero for an image whose gradient is not finite, so that it does not move.
    """
    # The sum, for the mean would make an image's gradient depend on the size of its batch.
    gradient: Tensor = torch.autograd.grad(values.sum(), x)[0]
    finite = gradient.flatten(1).sum(1).isfinite()  # a sum with infinity or NaN is not
    return gradient if finite.all() else gradient.where(per_image(finite), 0.0)
