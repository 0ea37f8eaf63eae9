"""PGD that knows of detectors (after Carlini and Wagner 2017, "MagNet ... are Not Robust")."""

from torch import Tensor, nn

from funn.attacks.core.norms import Norm
from funn.attacks.fixed_budget.pgd import PGD


class DetectorAware(PGD):
    """Climbs the cross-entropy less what the detectors measure beyond their thresholds.

    A success is an image that is misclassified and that no detector rejects.

    Args:
        model: images in [0, 1] to logits, with methods `scores` (N, D) and `rejects` (N,), and
            `thresholds` (D,), as a MagNet has them.
        weight: of the penalty `sum max(score / threshold - 1, 0)`. Carlini and Wagner add the
            excess itself; in units of the threshold one weight fits every detector.
        norm: see `PGD`, as the rest.
        eps: see `PGD`.
        steps: see `PGD`.
        step_size: see `PGD`.
        restarts: see `PGD`.
        seed: see `PGD`.

    Raises:
        ValueError: for a model without detectors, or a value that is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        norm: Norm = "l2",
        eps: float = 0.5,
        steps: int = 40,
        step_size: float | None = None,
        restarts: int = 1,
        seed: int = 0,
        weight: float = 1.0,
    ) -> None:
        if not hasattr(model, "rejects"):
            raise ValueError(f"a {type(model).__name__} has no detectors: use pgd_{norm}")
        if not weight >= 0:
            raise ValueError(f"weight={weight} must be 0 or more")
        super().__init__(model, norm, eps, steps, step_size, restarts, seed)
        self.weight = weight

    def objective(self, logits: Tensor, labels: Tensor, x: Tensor, batch: Tensor) -> Tensor:
        """The cross-entropy less the weighted excess, (B,)."""
        thresholds = self.model.thresholds.clone()  # a tensor of inference mode cannot be used
        excess = (self.model.scores(x.clone()) / thresholds - 1).clamp(min=0).sum(1)
        climbed: Tensor = super().objective(logits, labels, x, batch) - self.weight * excess
        return climbed

    def evades(self, x: Tensor) -> Tensor:
        """Whether no detector rejects images (B, C, H, W), bool (B,)."""
        rejected: Tensor = self.model.rejects(x.clone())
        return ~rejected
