"""PGD in other ways, each of which finds more where gradients are hidden in its own way."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.attacks import PGD
from funn.attacks.core.norms import Norm
from funn.evaluation.records.verification import margins
from funn.runtime.seeding import generator

_PAIRS, _SIGMA = 32, 1e-2


class MarginPGD(PGD):
    """PGD on the margin, which a saturated softmax does not hide."""

    def objective(self, logits: Tensor, labels: Tensor, x: Tensor, batch: Tensor) -> Tensor:
        """Minus the margin (B,)."""
        del x, batch
        return -margins(logits, labels)


class ScaledPGD(PGD):
    """PGD on the cross-entropy of logits scaled to unit deviation."""

    def objective(self, logits: Tensor, labels: Tensor, x: Tensor, batch: Tensor) -> Tensor:
        """The cross-entropy (B,) of the scaled logits."""
        del x, batch
        scale = logits.detach().std(1, keepdim=True).clamp(min=1e-12)
        return F.cross_entropy(logits / scale, labels, reduction="none")


class EstimatedPGD(PGD):
    """PGD by an estimate of the margin's gradient from pairs of points beside an image (NES).

    Ilyas et al. 2018. A classifier that cuts its gradient still shows its values.

    Args:
        model: see `PGD`, as the rest.
        norm: see `PGD`.
        eps: see `PGD`.
    """

    def __init__(self, model: nn.Module, norm: Norm, eps: float) -> None:
        super().__init__(model, norm, eps)
        self._draw = generator("estimates")

    def objective(self, logits: Tensor, labels: Tensor, x: Tensor, batch: Tensor) -> Tensor:
        """A product (B,) whose gradient in x is the estimate for minus the margin."""
        del batch
        start = x.detach()
        estimate = torch.zeros_like(start)
        with torch.no_grad():
            for _ in range(_PAIRS):
                noise = torch.randn(start.shape, generator=self._draw).to(start)
                ahead, behind = (
                    margins(self.get_logits(start + sign * _SIGMA * noise), labels)
                    for sign in (1, -1)
                )
                estimate += (behind - ahead)[:, None, None, None] * noise
        return (estimate * x).flatten(1).sum(1)
