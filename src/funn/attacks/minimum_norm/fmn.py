"""FMN, the fast minimum-norm attack (Pintor et al. 2021, arXiv:2102.12827)."""

from typing import get_args

import torch
from torch import Tensor, nn

from funn.attacks.core.ball import project
from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.core.losses import margin
from funn.attacks.core.norms import DUAL, AnyNorm, length, unit
from funn.attacks.core.result import AttackResult
from funn.attacks.minimum_norm.search import Seen, Trajectory, annealed, largest, search

_LAST_GAMMA = 0.001
_TINY = 1e-12


class FMN(BatchedAttack):
    """FMN behind the torchattacks interface.

    Args:
        model: images in [0, 1] to logits.
        norm: "l0" (how many values change: a grey pixel is one, a colour pixel up to three),
            "l1", "l2" or "linf".
        steps: most steps; each is one pass forward and one backward.
        step_size: L2 length of the first step; the last is a hundredth of it.
        gamma: by which fraction the radius shrinks where the image is fooled, and else grows, at
            first; at last it is 0.001.

    Raises:
        ValueError: for a value that is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        norm: AnyNorm = "l2",
        steps: int = 100,
        step_size: float = 1.0,
        gamma: float = 0.05,
    ) -> None:
        if norm not in get_args(AnyNorm):
            raise ValueError(f"norm={norm} must be l0, l1, l2 or linf")
        if steps < 1:
            raise ValueError(f"steps={steps} must be 1 or more")
        if not step_size > 0 or not 0 < gamma < 1:
            raise ValueError("step_size must be greater than 0, gamma between 0 and 1")
        super().__init__("FMN", model)
        self.norm: AnyNorm = norm
        self.steps = steps
        self.step_size = step_size
        self.gamma = gamma

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `fmn` with this attack's settings."""
        return fmn(
            model,
            images,
            labels,
            norm=self.norm,
            steps=self.steps,
            step_size=self.step_size,
            gamma=self.gamma,
            batch_size=self.batch_size,
        )


def fmn(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: AnyNorm,
    steps: int,
    step_size: float,
    gamma: float,
    batch_size: int,
) -> AttackResult:
    """Descend the margin of the label within a ball whose radius closes in on the boundary.

    Algorithm 1 of the paper. Until an image is first fooled, the radius is the distance of the
    boundary as its gradient there tells (for L0, which has no such thing, one value more each
    time); from then on it shrinks where the image is fooled and else grows, by less and less.

    One thing is added: while an image was never fooled the radius grows by `gamma` at least, as
    it does later. By the gradient alone it stays short of the boundary where the box cuts steps
    off, as on the black of MNIST: in L2 half of the images were not fooled within 100 steps (by
    adv-lib, which follows the paper, neither), and now all are.

    Foolbox 3.3 does not project at all for L2 (it divides the norms by themselves), and its L0
    ball has one value too many; adv-lib stretches what is inside the L2 ball to its surface. Here
    the nearest point of the ball is taken, as in the paper.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        norm: see `FMN`, as the rest.
        steps: see `FMN`.
        step_size: see `FMN`.
        gamma: see `FMN`.
        batch_size: most images in one forward pass.

    Returns:
        The result, as `minimum_norm.search.search` describes it.
    """

    def start(batch: Tensor) -> Trajectory:
        return _Trajectory(batch, norm, steps, step_size, gamma)

    return search(model, images, labels, start, norm=norm, steps=steps, batch_size=batch_size)


class _Trajectory(Trajectory):
    def __init__(
        self, images: Tensor, norm: AnyNorm, steps: int, step_size: float, gamma: float
    ) -> None:
        super().__init__(images)
        self.radius = images.new_full((len(images),), 1.0 if norm == "l0" else torch.inf)
        self.most = largest(images, norm)
        self.norm: AnyNorm = norm
        self.steps, self.step_size, self.gamma = steps, step_size, gamma

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -margin(logits, labels)

    def move(self, number: int, seen: Seen) -> None:
        progress = number / self.steps
        gamma = annealed(self.gamma, _LAST_GAMMA, progress)
        radius = self._counted(gamma, seen) if self.norm == "l0" else self._measured(gamma, seen)
        self.radius = torch.minimum(radius, self.most)
        step = annealed(self.step_size, self.step_size / 100, progress)
        moved = project(self.x - self.images + step * unit(seen.gradient), self.radius, self.norm)
        self.x = (self.images + moved).clamp(0, 1)

    def _measured(self, gamma: float, seen: Seen) -> Tensor:
        slope = length(seen.gradient, DUAL[self.norm]).clamp_min(_TINY)
        boundary = length(self.x - self.images, self.norm) + seen.values.abs() / slope
        grown = torch.where(self.radius.isfinite(), (1 + gamma) * self.radius, 0)
        outside = torch.where(seen.smallest.isfinite(), grown, torch.maximum(grown, boundary))
        inside = torch.minimum((1 - gamma) * self.radius, seen.smallest)
        return torch.where(seen.fooled, inside, outside)

    def _counted(self, gamma: float, seen: Seen) -> Tensor:
        fewer = torch.minimum(self.radius - 1, ((1 - gamma) * self.radius).floor())
        more = torch.maximum(self.radius + 1, ((1 + gamma) * self.radius).floor())
        inside = torch.minimum(fewer, seen.smallest).clamp_min(1)
        return torch.where(seen.fooled, inside, more)
