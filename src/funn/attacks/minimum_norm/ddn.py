"""DDN, decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600)."""

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.core.losses import cross_entropy
from funn.attacks.core.norms import length, per_image, unit
from funn.attacks.core.randomness import image_generator
from funn.attacks.core.result import AttackResult
from funn.attacks.minimum_norm.search import Seen, Trajectory, annealed, largest, search

_FIRST_STEP, _LAST_STEP = 1.0, 0.01
# A perturbation of no length has no direction to be scaled along.
_TINY = 1e-12


class DDN(BatchedAttack):
    """DDN behind the torchattacks interface: a small L2 perturbation.

    Args:
        model: images in [0, 1] to logits.
        steps: most steps; each is one pass forward and one backward.
        gamma: by which fraction the norm shrinks where the image is fooled, and else grows.
        init_norm: the norm to begin with.
        levels: how many values a pixel may have, as the authors' code rounds it (256). None, as
            in Foolbox, is the default: rounding lengthens what this attack finds, and no other
            attack here pays that.
        seed: of the directions where there is no gradient, drawn from (seed, the image's bytes).

    Raises:
        ValueError: for a value that is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int = 100,
        gamma: float = 0.05,
        init_norm: float = 1.0,
        levels: int | None = None,
        seed: int = 0,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} must be 1 or more")
        if not 0 < gamma < 1 or not init_norm > 0:
            raise ValueError("gamma must be between 0 and 1, init_norm greater than 0")
        if levels is not None and levels < 2:
            raise ValueError(f"levels={levels} must be 2 or more")
        super().__init__("DDN", model)
        self.steps = steps
        self.gamma = gamma
        self.init_norm = init_norm
        self.levels = levels
        self.seed = seed

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `ddn` with this attack's settings."""
        return ddn(
            model,
            images,
            labels,
            steps=self.steps,
            gamma=self.gamma,
            init_norm=self.init_norm,
            levels=self.levels,
            seed=self.seed,
            batch_size=self.batch_size,
        )


def ddn(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    gamma: float,
    init_norm: float,
    levels: int | None,
    seed: int,
    batch_size: int,
) -> AttackResult:
    """Climb the cross-entropy on a sphere that shrinks while an image is fooled, and else grows.

    Algorithm 1 of the paper. A step goes along the gradient scaled to length 1, by 1.0 at first
    and 0.01 at last; then the perturbation is scaled to the norm of that time. Where the gradient
    is zero the direction is random, as in the authors' code and Foolbox: the cross-entropy of a
    saturated network has no slope.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        steps: see `DDN`, as the rest.
        gamma: see `DDN`.
        init_norm: see `DDN`.
        levels: see `DDN`.
        seed: see `DDN`.
        batch_size: most images in one forward pass.

    Returns:
        The result, as `minimum_norm.search.search` describes it.
    """

    def start(batch: Tensor) -> Trajectory:
        return _Trajectory(batch, steps, gamma, init_norm, levels, seed)

    return search(model, images, labels, start, norm="l2", steps=steps, batch_size=batch_size)


class _Trajectory(Trajectory):
    def __init__(
        self,
        images: Tensor,
        steps: int,
        gamma: float,
        init_norm: float,
        levels: int | None,
        seed: int,
    ) -> None:
        super().__init__(images)
        self.norm = images.new_full((len(images),), init_norm)
        self.most = largest(images, "l2")
        self.steps, self.gamma, self.levels, self.seed = steps, gamma, levels, seed

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

    def can_move(self, gradient: Tensor) -> Tensor:
        return torch.ones(len(gradient), dtype=torch.bool, device=gradient.device)

    def move(self, number: int, seen: Seen) -> None:
        step = annealed(_FIRST_STEP, _LAST_STEP, number / self.steps)
        moved = self.x - self.images + step * unit(self._directions(number, seen.gradient))
        factor = torch.where(seen.fooled, 1 - self.gamma, 1 + self.gamma)
        self.norm = torch.minimum(factor * self.norm, self.most)
        moved = moved * per_image(self.norm / length(moved, "l2").clamp_min(_TINY))
        self.x = (self.images + moved).clamp(0, 1)
        if self.levels is not None:
            self.x = (self.x * (self.levels - 1)).round() / (self.levels - 1)

    def _directions(self, number: int, gradient: Tensor) -> Tensor:
        """The gradient (B, C, H, W), or noise where it is zero."""
        zero = ~gradient.flatten(1).any(1)
        if not zero.any():
            return gradient
        shape = gradient.shape[1:]
        noise = [
            torch.randn(shape, generator=image_generator(f"DDN{number}", self.seed, image))
            for image in self.images[zero]
        ]
        directions = gradient.clone()
        directions[zero] = torch.stack(noise).to(gradient)
        return directions
