"""Auto-PGD (Croce and Hein 2020), in both forms that AutoAttack's standard version runs.

Follows the authors' code (github.com/fra31/auto-attack, autopgd_base.py) step by step. What differs
changes no success: the start is drawn from (seed, the image's bytes) instead of the global state,
each image stops when it is fooled, and the images that go on are packed together.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.core.losses import cross_entropy, finite_gradient, targeted_margin
from funn.attacks.core.norms import Norm, check_norm, length_by_sum, per_image
from funn.attacks.core.randomness import image_generator
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState, predict_clean
from funn.attacks.core.targets import predict_targets

Loss = Literal["ce", "dlr_targeted"]

_MOMENTUM = 0.75  # share of the new step; the rest repeats the last one
_TINY = 1e-12


class APGD(BatchedAttack):
    """Auto-PGD behind the torchattacks interface: PGD that chooses its own step size.

    Args:
        model: images in [0, 1] to logits.
        norm: "l2" or "linf".
        eps: radius of the ball, in that norm.
        steps: steps from each start.
        loss: "ce", the cross-entropy from one start, or "dlr_targeted", the difference of logits
            ratio towards each of `targets` classes, from a start of its own (APGD-T).
        targets: how many classes APGD-T tries, those of the highest logits on the clean image.
        rho: share of the steps between two checkpoints that must raise the loss; with fewer the
            step is halved.
        seed: of the starts, drawn from (seed, the image's bytes).

    Raises:
        ValueError: for a value that is out of range.
    """

    images_per_part = 256

    def __init__(
        self,
        model: nn.Module,
        norm: Norm = "l2",
        eps: float = 0.5,
        steps: int = 100,
        loss: Loss = "ce",
        targets: int = 9,
        rho: float = 0.75,
        seed: int = 0,
    ) -> None:
        check_norm(norm)
        if loss not in ("ce", "dlr_targeted"):
            raise ValueError(f"loss={loss} must be ce or dlr_targeted")
        if not eps >= 0 or steps < 1 or targets < 1 or not 0 <= rho <= 1:
            raise ValueError("eps must be 0 or more, steps and targets 1 or more, rho in [0, 1]")
        super().__init__("APGD", model)
        self.norm: Norm = norm
        self.eps = eps
        self.steps = steps
        self.loss: Loss = loss
        self.targets = targets
        self.rho = rho
        self.seed = seed

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Climb from each start until an image is fooled.

        Returns:
            The result; `step` counts the predictions over all starts, a start's own included. A
            failure is returned as the clean image.
        """
        state, active = predict_clean(model, images, labels, self.batch_size)
        targets = labels[:, None]  # not looked at by the cross-entropy
        if self.loss == "dlr_targeted":
            targets = predict_targets(
                model, images, labels, active, self.targets, state, self.batch_size
            )
        for run in range(targets.shape[1]):
            ascent = _Ascent(images, self._starts(images, active, run), self.norm, self.eps)
            passed = 1 + run * (self.steps + 1)
            active = self._climb(model, labels, targets[:, run], ascent, state, active, passed)
        return state.result()

    def objective(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """What is climbed, (B,), from logits (B, K); only APGD-T looks at the targets (B,)."""
        if self.loss == "ce":
            return cross_entropy(logits, labels)
        return difference_ratio(logits, labels, targets)

    def _climb(
        self,
        model: Model,
        labels: Tensor,
        targets: Tensor,
        ascent: "_Ascent",
        state: AttackState,
        active: Tensor,
        passed: int,
    ) -> Tensor:
        """Climb from one start, which is prediction number `passed`.

        Returns:
            Indices of the images that resist.
        """
        windows = checkpoints(self.steps)
        for number in range(self.steps + 1):
            going = [active[:0]]
            for batch in active.split(self.batch_size) if len(active) else ():
                x = ascent.x[batch].requires_grad_()
                logits = model(x)
                kept = state.update(batch, logits.detach(), labels[batch], passed + number)
                fooled = state.success[batch]
                state.adversarials[batch[fooled]] = x.detach()[fooled]
                going.append(batch[kept])
                if number < self.steps and kept.any():
                    values = self.objective(logits, labels[batch], targets[batch])[kept]
                    gradient = finite_gradient(values, x)[kept]
                    state.count_backward(batch[kept], gradient)
                    ascent.look(batch[kept], values.detach(), gradient, number)
            active = torch.cat(going)
            if number in windows:
                ascent.check(active, self.rho * windows[number])
            ascent.step(active, number)
        return active

    def _starts(self, images: Tensor, active: Tensor, run: int) -> Tensor:
        """On the border of the balls, before the box clips (N, C, H, W); the idle stay."""
        starts = images.clone()
        for row in active.tolist():
            image = images[row : row + 1]
            draw = image_generator(f"APGD{run}", self.seed, image[0])
            if self.norm == "linf":
                noise = 2 * torch.rand(image.shape, generator=draw) - 1
            else:
                noise = torch.randn(image.shape, generator=draw)
            noise = self.eps * noise / (per_image(length_by_sum(noise, self.norm)) + _TINY)
            starts[row] = (image + noise.to(image)).clamp(0, 1)[0]
        return starts


class _Ascent:
    """The trajectories of the images, from one start.

    Args:
        images: clean (N, C, H, W).
        starts: (N, C, H, W).
        norm: of the balls.
        eps: their radius.

    Attributes:
        x: the images as they are now (N, C, H, W).
    """

    def __init__(self, images: Tensor, starts: Tensor, norm: Norm, eps: float) -> None:
        count = len(images)
        self.images = images
        self.norm: Norm = norm
        self.eps = eps
        self.x, self.before, self.best_x = starts, starts.clone(), starts.clone()
        self.gradient, self.best_gradient = torch.zeros_like(images), torch.zeros_like(images)
        self.size = images.new_full((count, 1, 1, 1), 2 * eps)
        self.best = images.new_full((count,), -torch.inf)
        self.best_at_check = self.best.clone()
        # The authors compare the first step's loss with an entry that is not written yet: 0.
        self.last = images.new_zeros(count)
        self.rises = images.new_zeros(count)  # since the last checkpoint
        self.halved = torch.ones(count, dtype=torch.bool, device=images.device)

    def look(self, batch: Tensor, losses: Tensor, gradient: Tensor, number: int) -> None:
        """Take in the losses (B,) and gradients (B, C, H, W) of images (B,) after some steps."""
        self.gradient[batch] = gradient
        better = losses > self.best[batch] if number else torch.ones_like(losses, dtype=torch.bool)
        rows = batch[better]
        self.best[rows] = losses[better]
        self.best_x[rows], self.best_gradient[rows] = self.x[rows], gradient[better]
        if number:
            self.rises[batch] += losses > self.last[batch]
            self.last[batch] = losses
        else:
            self.best_at_check[batch] = losses

    def check(self, active: Tensor, enough: float) -> None:
        """Halve the step of images that make too little of it, and send them back to their best.

        Args:
            active: their indices (B,).
            enough: how many steps since the last checkpoint must have raised the loss, and more.
        """
        stalls = ~self.halved[active] & (self.best_at_check[active] >= self.best[active])
        halve = (self.rises[active] <= enough) | stalls
        self.halved[active] = halve
        self.best_at_check[active] = self.best[active]
        self.rises[active] = 0
        rows = active[halve]
        self.size[rows] /= 2
        self.x[rows], self.gradient[rows] = self.best_x[rows], self.best_gradient[rows]

    def step(self, active: Tensor, number: int) -> None:
        """Move images (B,) up their gradients, with momentum after the first time."""
        x, gradient = self.x[active], self.gradient[active]
        if self.norm == "linf":
            direction = gradient.sign()
        else:
            direction = gradient / (per_image(length_by_sum(gradient, "l2")) + _TINY)
        share = _MOMENTUM if number else 1.0
        moved = self._project(active, x + self.size[active] * direction)
        moved = x + (moved - x) * share + (x - self.before[active]) * (1 - share)
        self.before[active] = x
        self.x[active] = self._project(active, moved)

    def _project(self, active: Tensor, x: Tensor) -> Tensor:
        """Points (B, C, H, W) into the balls and the box, one after the other."""
        images = self.images[active]
        if self.norm == "linf":
            return x.clamp(images - self.eps, images + self.eps).clamp(0, 1)
        noise = x - images
        length = per_image(length_by_sum(noise, "l2"))
        return (images + noise / (length + _TINY) * length.clamp(max=self.eps)).clamp(0, 1)


def checkpoints(steps: int) -> dict[int, int]:
    """After which steps the step size is looked at, each with the steps since the last time.

    The intervals shorten from 22 to 6 % of all steps.
    """
    interval, least, less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    windows, at = {}, interval
    while at < steps:
        windows[at] = interval
        interval = max(interval - less, least)
        at += interval
    return windows


def difference_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The targeted difference of logits ratio: -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2).

    z_(i) is the i-th highest logit. Neither a shift nor a scale of the logits changes it, so it has
    a gradient where the cross-entropy saturates. With fewer than 4 classes, for which it is not
    defined, the numerator alone.

    Args:
        logits: (B, K).
        labels: (B,).
        targets: another class of each (B,).

    Returns:
        (B,); positive where the target is above the label.
    """
    ahead = targeted_margin(logits, labels, targets)
    if logits.shape[1] < 4:
        return ahead
    top = logits.topk(4, dim=1).values
    return ahead / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _TINY)
