"""What decides "verified": the float64 verifier, which says what a returned image really is."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from funn.runtime.plain_layers import copied

# Of the largest logit: float32 moves a margin by a hundredth of this.
_ROUNDING = 1e-4


def float64_verifier(model: nn.Module) -> nn.Module:
    """Return a float64 copy of a classifier, which says what a returned image really is."""
    return copied(model).double().eval().requires_grad_(False)


class Verified(NamedTuple):
    """What returned images really are. N images.

    Attributes:
        success: bool (N,), whether the image, stored in float32, is misclassified by the float64
            copy of the classifier, lies in [0, 1] and is finite.
        margin: float64 (N,), z_label minus the highest other logit there: negative where it is
            misclassified.
        denied: bool (N,), whether it is no success by more than rounding explains: it is illegal,
            or its margin is more than a ten thousandth of its largest logit.
    """

    success: Tensor
    margin: Tensor
    denied: Tensor


@torch.no_grad()
def verify(judge: nn.Module, images: Tensor, labels: Tensor) -> Verified:
    """Say of returned images what every table calls verified.

    Args:
        judge: the float64 copy of the classifier, from `float64_verifier`.
        images: as an attack returned them (N, C, H, W).
        labels: (N,).
    """
    stored = images.float()
    flat = stored.flatten(1)
    legal = ((flat >= 0) & (flat <= 1)).all(1)  # false for NaN
    logits = judge(stored.double())
    margin = margins(logits, labels)
    beyond_rounding = margin > _ROUNDING * logits.abs().amax(1)
    return Verified(legal & (margin < 0), margin, ~legal | beyond_rounding)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """z_label minus the highest other logit, (N,): negative for a misclassified image."""
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - others.amax(1)
