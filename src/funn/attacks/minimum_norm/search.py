"""What the attacks share that look for the smallest adversarial image within a number of steps."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from funn.attacks.core.interface import Model
from funn.attacks.core.norms import AnyNorm, length
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState, finite_rows, fooled


class Seen(NamedTuple):
    """What an attack sees of B images where they are now.

    Attributes:
        values: of the objective (B,).
        gradient: of each image's value, finite (B, C, H, W).
        fooled: bool (B,), whether each is misclassified here.
        smallest: (B,), the least norm at which it was misclassified so far; infinite before.
    """

    values: Tensor
    gradient: Tensor
    fooled: Tensor
    smallest: Tensor


class Trajectory(ABC):
    """The trajectory of B images; every attribute that is a tensor has one row for each of them.

    Args:
        images: clean images (B, C, H, W) in [0, 1].

    Attributes:
        images: the clean images.
        x: where they are now (B, C, H, W) in [0, 1].
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.x = images.clone()

    @abstractmethod
    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is differentiated, (B,), from logits (B, K) and labels (B,)."""

    @abstractmethod
    def move(self, number: int, seen: Seen) -> None:
        """Take step `number` (the first is 0) by changing `x`."""

    def can_move(self, gradient: Tensor) -> Tensor:
        """Whether each image can ever move, bool (B,), by its gradient (B, C, H, W) here.

        An attack that only follows gradients stays on a clean image that has none.
        """
        return ((gradient != 0) | (self.x != self.images)).flatten(1).any(1)

    def narrow(self, kept: Tensor) -> None:
        """Forget the images that are not kept, by bool (B,)."""
        if not kept.all():
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value[kept])


def search(
    model: Model,
    images: Tensor,
    labels: Tensor,
    start: Callable[[Tensor], Trajectory],
    *,
    norm: AnyNorm,
    steps: int,
    batch_size: int,
) -> AttackResult:
    """Follow each image's trajectory and return the smallest adversarial image that was met on it.

    An image stops before its last step when it is misclassified from the start, when it cannot
    move, when no smaller one is possible (a single changed value, for "l0"), or when its logits
    or its gradient are not finite, for then there is no direction to go on in.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        start: from clean images (B, C, H, W) to their trajectory.
        norm: tells which image is the smallest.
        steps: most steps. What the last of them reaches is looked at too, which takes one pass
            forward more than there are steps.
        batch_size: most images in one forward pass.

    Returns:
        The result; `step` counts the steps before the first wrong prediction, which is not the
        one that is returned. A failure is returned as the clean image.
    """
    best = Smallest(images, norm)
    for batch in torch.arange(len(images), device=images.device).split(batch_size):
        if len(batch):
            _follow(model, best, start(images[batch]), batch, labels, steps)
    return best.result()


def _follow(
    model: Model,
    best: "Smallest",
    trajectory: Trajectory,
    batch: Tensor,
    labels: Tensor,
    steps: int,
) -> None:
    for number in range(steps + 1):
        x = trajectory.x.detach().requires_grad_()
        logits = model(x)
        wrong = best.offer(batch, trajectory.x, logits.detach(), labels[batch], number)
        going = finite_rows(logits.detach()) & best.improvable(batch)
        if number == steps or not going.any():
            return
        values = trajectory.objective(logits, labels[batch])
        # The sum, for the mean would make an image's gradient depend on the size of its batch.
        gradient = torch.autograd.grad(values[going].sum(), x)[0]
        finite = gradient.isfinite().flatten(1).all(1)
        best.count_backward(batch[going], gradient[going])
        going &= finite & trajectory.can_move(gradient)
        if not going.any():
            return
        trajectory.narrow(going)
        batch = batch[going]
        seen = Seen(values.detach()[going], gradient[going], wrong[going], best.norms[batch])
        trajectory.move(number, seen)


class Smallest(AttackState):
    """An `AttackResult` in the making that keeps the smallest adversarial image.

    Args:
        images: clean images (N, C, H, W).
        norm: tells which image is the smallest.

    Attributes:
        norms: (N,), of the smallest adversarial perturbation so far; infinite before.
    """

    def __init__(self, images: Tensor, norm: AnyNorm) -> None:
        super().__init__(images)
        self.clean = images
        self.norm: AnyNorm = norm
        self.norms = torch.full_like(self.closest, torch.inf)

    def offer(
        self, batch: Tensor, x: Tensor, logits: Tensor, labels: Tensor, number: int
    ) -> Tensor:
        """Record one forward pass and keep what is adversarial and smaller than all before.

        Args:
            batch: indices (B,) of the images that passed.
            x: what passed (B, C, H, W).
            logits: of these (B, K).
            labels: of these (B,).
            number: steps taken so far.

        Returns:
            bool (B,), which are misclassified.
        """
        self.count_forward(batch, logits, labels)
        wrong = fooled(logits, labels)
        norms = length(x - self.clean[batch], self.norm)
        better = wrong & (norms < self.norms[batch])
        self.norms[batch[better]] = norms[better]
        self.adversarials[batch[better]] = x[better]
        first = batch[wrong & ~self.success[batch]]
        self.success[first] = True
        self.step[first] = number
        return wrong

    def improvable(self, batch: Tensor) -> Tensor:
        """Whether images (B,) could have a smaller adversarial image than is known, bool (B,)."""
        # What is right when clean differs in at least one value when adversarial.
        return self.norms[batch] > (1 if self.norm == "l0" else 0)


def largest(images: Tensor, norm: AnyNorm) -> Tensor:
    """Norm (B,) of the largest perturbation of images (B, C, H, W) that the box allows."""
    return length(torch.maximum(images, 1 - images), norm)


def annealed(first: float, last: float, progress: float) -> float:
    """From `first` at progress 0 to `last` at 1, along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
