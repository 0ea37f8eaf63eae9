"""Targeted FAB (Croce and Hein 2019, "fast adaptive boundary"), as AutoAttack's standard runs it.

Follows the authors' code (github.com/fra31/auto-attack, fab_base.py). What differs changes no
success: each image stops at its first adversarial image within eps, the images that go on are
packed together, a point is predicted and linearised in one pass, and the projection looks for its
zero by Newton's method instead of by sorting. There is nothing random in it.
"""

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.core.losses import finite_gradient, targeted_margin
from funn.attacks.core.norms import Norm, check_norm, length_by_sum
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState, finite_rows, fooled, predict_clean
from funn.attacks.core.targets import predict_targets

# Slopes that the L2 projection takes for zero, and the least length of a step, as the authors do.
_FLAT = 1e-8


class FAB(BatchedAttack):
    """FAB-T behind the torchattacks interface: small steps to and along a class's boundary.

    Args:
        model: images in [0, 1] to logits.
        norm: "l2" or "linf", the norm that each step minimises.
        eps: an adversarial image farther from the clean one than this, in that norm, is no success.
            None: look on to the end for the nearest. Its trajectory does not depend on eps, so the
            nearest one answers for every eps at once.
        steps: steps towards each target.
        targets: how many classes are tried, those of the highest logits on the clean image.
        alpha_max: most weight of the step that starts at the clean image.
        eta: how far beyond the boundary each step goes; 1 is onto it.
        beta: how far from the clean image one goes back from an adversarial one; 1 is not at all.

    Raises:
        ValueError: for a value that is out of range.
    """

    images_per_part = 256

    def __init__(
        self,
        model: nn.Module,
        norm: Norm = "l2",
        eps: float | None = 0.5,
        steps: int = 100,
        targets: int = 9,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
    ) -> None:
        check_norm(norm)
        if not (eps is None or eps >= 0) or steps < 1 or targets < 1:
            raise ValueError("eps must be 0 or more, steps and targets 1 or more")
        if not 0 <= alpha_max <= 1 or not 0 < beta <= 1 or eta < 1:
            raise ValueError("alpha_max and beta must lie in [0, 1], beta above 0, eta 1 or more")
        super().__init__("FAB", model)
        self.norm: Norm = norm
        self.eps = eps
        self.steps = steps
        self.targets = targets
        self.alpha_max = alpha_max
        self.eta = eta
        self.beta = beta

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Walk towards one target after the other, until an image is fooled within eps.

        Returns:
            The result; `step` counts the steps towards all targets. A success is the first
            adversarial image within eps, not the nearest, unless eps is None; a failure is
            returned as the clean image.
        """
        state, active = predict_clean(model, images, labels, self.batch_size)
        targets = predict_targets(
            model, images, labels, active, self.targets, state, self.batch_size
        )
        for number in range(targets.shape[1]):
            self._walk(
                model, images, labels, targets[:, number], active, state, number * self.steps
            )
            if self.eps is not None:
                active = active[~state.success[active]]
        return state.result()

    def _walk(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        targets: Tensor,
        active: Tensor,
        state: AttackState,
        before: int,
    ) -> None:
        """Walk towards one target (N,), after so many steps towards others."""
        x, steps = images.clone(), torch.zeros_like(labels)
        arrived = torch.zeros_like(labels, dtype=torch.bool)  # by a step, so that it may succeed
        while len(active):
            going = [active[:0]]
            for batch in active.split(self.batch_size):
                at = x[batch].requires_grad_()
                logits = model(at)
                state.count_forward(batch, logits.detach(), labels[batch])
                wrong = fooled(logits, labels[batch]) & arrived[batch]
                hit = wrong & self._hits(at.detach(), images[batch], state.adversarials[batch])
                self._record(state, batch[hit], at.detach()[hit], before + steps[batch[hit]])
                on = finite_rows(logits) & (steps[batch] < self.steps)
                if self.eps is not None:
                    on &= ~hit
                back, ahead = on & wrong, on & ~wrong
                arrived[batch] = ahead
                clean = images[batch[back]]
                x[batch[back]] = clean + (at.detach()[back] - clean) * self.beta
                going.append(batch[on])
                if not ahead.any():
                    continue
                rows = batch[ahead]
                value = targeted_margin(logits[ahead], labels[rows], targets[rows])
                gradient = finite_gradient(value, at)[ahead]
                state.count_backward(rows, gradient)
                steps[rows] += 1
                x[rows] = self._step(x[rows], images[rows], value.detach(), gradient)
            active = torch.cat(going)

    @staticmethod
    def _record(state: AttackState, rows: Tensor, adversarials: Tensor, step: Tensor) -> None:
        state.success[rows] = True
        state.step[rows] = step
        state.adversarials[rows] = adversarials

    def _hits(self, x: Tensor, clean: Tensor, found: Tensor) -> Tensor:
        """Whether x (B, C, H, W) is within eps, or nearer than what was found before, bool (B,).

        Nothing found is the clean image itself.
        """
        length, before = (length_by_sum(at - clean, self.norm) for at in (x, found))
        return length <= self.eps if self.eps is not None else (length < before) | (before == 0)

    def _step(self, x: Tensor, clean: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Go to the linearised boundary, from where one is and a little from the clean image.

        Args:
            x: where the images are (B, C, H, W).
            clean: (B, C, H, W).
            value: z_target - z_label at x (B,).
            gradient: of that (B, C, H, W).

        Returns:
            (B, C, H, W) in [0, 1].
        """
        here, origin, slope = x.flatten(1), clean.flatten(1), gradient.flatten(1)
        value_there = value + (slope * (origin - here)).sum(1)
        to_here, to_there = to_plane(
            torch.cat((here, origin)),
            torch.cat((slope, slope)),
            torch.cat((value, value_there)),
            self.norm,
        ).chunk(2)
        near, far = (
            length_by_sum(step, self.norm).clamp(min=_FLAT)[:, None] for step in (to_here, to_there)
        )
        share = (near / (near + far)).clamp(max=self.alpha_max)
        moved = (here + self.eta * to_here) * (1 - share) + (origin + self.eta * to_there) * share
        return moved.clamp(0, 1).view_as(x)


def to_plane(points: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """The smallest step within the box that makes a linear function zero.

    Every coordinate goes downhill (where the value is positive; else uphill) until it meets the
    box: under linf all as far as each other, under l2 in proportion to the slope. How far, s, is
    the zero of a piecewise linear function with a corner where each coordinate meets the box.

    Args:
        points: (B, D) in [0, 1].
        slope: of the function (B, D).
        value: of the function at the points (B,).
        norm: which is minimised.

    Returns:
        (B, D). Where the zero is beyond the box, as far as the box allows.
    """
    steep = slope.abs()
    way = torch.where(value >= 0, -1, 1)[:, None] * slope.sign()
    room = torch.where(way > 0, 1 - points, points)
    speed = steep.where(steep > _FLAT, 0) if norm == "l2" else torch.ones_like(steep)
    limit = torch.where(speed > 0, room / speed, 0)
    gain = speed * steep  # how fast the function falls with s until the limit
    whole = (gain * limit)[:, :, None]  # and how far in all
    gain, need = gain[:, :, None], value.abs()
    s = torch.zeros_like(need)
    # The fall is concave in s, so Newton's steps from 0 never pass the zero, and each that is not
    # the last has passed a corner.
    while True:
        free = (limit > s[:, None]).to(points)[:, None]
        rate, met = (free @ gain)[:, 0, 0], ((1 - free) @ whole)[:, 0, 0]
        further = torch.where(rate > 0, (need - met) / rate, torch.inf)
        if not (further > s).any():
            return way * speed * torch.minimum(s[:, None], limit)
        s = torch.maximum(s, further)
