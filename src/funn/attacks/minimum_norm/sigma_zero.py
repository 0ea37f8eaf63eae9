"""sigma-zero, a sparse attack (Cinà et al. 2024, arXiv:2402.01879)."""

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.core.losses import margin
from funn.attacks.core.norms import length, per_image
from funn.attacks.core.result import AttackResult
from funn.attacks.minimum_norm.search import Seen, Trajectory, annealed, search

_TINY = 1e-12
# Adam's, and its guard against a division by zero.
_BETA_1, _BETA_2, _ADAM_TINY = 0.9, 0.999, 1e-8


class SigmaZero(BatchedAttack):
    """sigma-zero behind the torchattacks interface: few values change, by as much as they like.

    Args:
        model: images in [0, 1] to logits.
        steps: most steps; each is one pass forward and one backward.
        step_size: of Adam at first; at last it is a tenth of it.
        sigma: how smooth the count of changed values is: d^2 / (d^2 + sigma) stands for d != 0.
        threshold: below which a change is undone, at first.
        threshold_step: how much the threshold rises where the image is fooled and else falls, as
            a fraction of the step size.

    Raises:
        ValueError: for a value that is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int = 1000,
        step_size: float = 1.0,
        sigma: float = 0.001,
        threshold: float = 0.3,
        threshold_step: float = 0.01,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} must be 1 or more")
        if not step_size > 0 or not sigma > 0:
            raise ValueError("step_size and sigma must be greater than 0")
        if not 0 <= threshold <= 1 or not threshold_step >= 0:
            raise ValueError("threshold must lie in [0, 1], threshold_step must be 0 or more")
        super().__init__("SigmaZero", model)
        self.steps = steps
        self.step_size = step_size
        self.sigma = sigma
        self.threshold = threshold
        self.threshold_step = threshold_step

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `sigma_zero` with this attack's settings."""
        return sigma_zero(
            model,
            images,
            labels,
            steps=self.steps,
            step_size=self.step_size,
            sigma=self.sigma,
            threshold=self.threshold,
            threshold_step=self.threshold_step,
            batch_size=self.batch_size,
        )


def sigma_zero(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    step_size: float,
    sigma: float,
    threshold: float,
    threshold_step: float,
    batch_size: int,
) -> AttackResult:
    """Descend the margin of the label plus a smooth count of the changed values.

    Algorithm 1 of the paper. Each step normalises the gradient to a largest value of 1, lets Adam
    step along it, clips to the box, and undoes every change below a threshold, which rises while
    the image is fooled and else falls. The count is of values: a grey pixel is one, a colour
    pixel up to three.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        steps: see `SigmaZero`, as the rest.
        step_size: see `SigmaZero`.
        sigma: see `SigmaZero`.
        threshold: see `SigmaZero`.
        threshold_step: see `SigmaZero`.
        batch_size: most images in one forward pass.

    Returns:
        The result, as `minimum_norm.search.search` describes it.
    """

    def start(batch: Tensor) -> Trajectory:
        return _Trajectory(batch, steps, step_size, sigma, threshold, threshold_step)

    return search(model, images, labels, start, norm="l0", steps=steps, batch_size=batch_size)


class _Trajectory(Trajectory):
    def __init__(
        self,
        images: Tensor,
        steps: int,
        step_size: float,
        sigma: float,
        threshold: float,
        threshold_step: float,
    ) -> None:
        super().__init__(images)
        self.mean = torch.zeros_like(images)
        self.square = torch.zeros_like(images)
        self.threshold = images.new_full((len(images),), threshold)
        self.steps, self.step_size, self.sigma = steps, step_size, sigma
        self.threshold_step = threshold_step

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The margin; nothing where the image is fooled. The count is added in `move`."""
        return margin(logits, labels).clamp_min(0)

    def move(self, number: int, seen: Seen) -> None:
        moved = self.x - self.images
        gradient = seen.gradient + self._slope_of_count(moved)
        gradient = gradient / per_image(length(gradient, "linf").clamp_min(_TINY))
        step = self._annealed(number) * self._adam(number, gradient)
        moved = (self.x - step).clamp(0, 1) - self.images
        change = self.threshold_step * self._annealed(number + 1)
        self.threshold = (self.threshold + torch.where(seen.fooled, change, -change)).clamp(0, 1)
        kept = moved.abs() >= per_image(self.threshold)
        self.x = torch.where(kept, self.images + moved, self.images).clamp(0, 1)

    def _annealed(self, number: int) -> float:
        return annealed(self.step_size, self.step_size / 10, number / self.steps)

    def _slope_of_count(self, moved: Tensor) -> Tensor:
        """Of the mean of d^2 / (d^2 + sigma) over an image's values d."""
        return 2 * self.sigma * moved / (moved.square() + self.sigma).square() / moved[0].numel()

    def _adam(self, number: int, gradient: Tensor) -> Tensor:
        self.mean = _BETA_1 * self.mean + (1 - _BETA_1) * gradient
        self.square = _BETA_2 * self.square + (1 - _BETA_2) * gradient.square()
        mean = self.mean / (1 - _BETA_1 ** (number + 1))
        square = self.square / (1 - _BETA_2 ** (number + 1))
        return mean / (square.sqrt() + _ADAM_TINY)
