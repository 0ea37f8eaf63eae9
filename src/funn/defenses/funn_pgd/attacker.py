"""Attackers that search for each image on its own, in the place of the attacker network A1.

They climb how far the defender is from what it should make of the image; no label is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from funn.attacks.core.ball import projected_gradient_ascent
from funn.errors import above, at_least, require

Objective = Callable[[Tensor, Tensor], Tensor]


class Ball(NamedTuple):
    """Where an attacker may search.

    Attributes:
        norm: "l2", "linf", or "l0" (a number of pixel values).
        eps: the radius in that norm.
        steps: of the search.
    """

    norm: Literal["l2", "linf", "l0"]
    eps: float
    steps: int


def read_balls(parts: Sequence[Mapping[str, Any]]) -> list[Ball]:
    """Return `attacker.balls` of the configuration.

    Raises:
        UserError: for a value that is out of range.
    """
    balls = [Ball(**part) for part in parts]
    for ball in balls:
        known = ball.norm in ("l2", "linf", "l0")
        require(known, f"attacker.balls: norm={ball.norm} must be l2, linf or l0")
        above("attacker.balls: eps", ball.eps, 0)
        at_least("attacker.balls: steps", ball.steps, 1)
    return balls


def search(
    objective: Objective,
    x: Tensor,
    goals: Tensor,
    balls: Sequence[Ball],
    draw: torch.Generator,
    shares: int | None = None,
) -> Tensor:
    """Attack images, each within one of the balls in turn.

    Args:
        objective: attacked images (N, C, H, W) and what each is compared with, to what is
            climbed (N,).
        x: clean images (N, C, H, W) in [0, 1].
        goals: what each is compared with (N, ...).
        balls: image i takes ball i modulo `shares`.
        draw: where the random starts come from.
        shares: parts of the batch; the number of balls unless there are more, whose images stay
            clean.

    Returns:
        Images (N, C, H, W) in [0, 1], without gradient.
    """
    attacked, shares = x.clone(), shares or len(balls)
    for first, ball in enumerate(balls):
        clean, mine = x[first::shares], goals[first::shares]

        def climbed(images: Tensor, mine: Tensor = mine) -> Tensor:
            return objective(images, mine)

        if ball.norm == "l0":
            found = climb_pixels(climbed, clean, round(ball.eps), ball.steps)
        else:
            found = projected_gradient_ascent(climbed, clean, ball.norm, ball.eps, ball.steps, draw)
        attacked[first::shares] = found
    return attacked


def climb_pixels(
    objective: Callable[[Tensor], Tensor], images: Tensor, pixels: int, steps: int
) -> Tensor:
    """Set the values that raise the objective most to 0 or 1, some in each step.

    Args:
        objective: images (N, C, H, W) to what is climbed (N,).
        images: (N, C, H, W) in [0, 1].
        pixels: how many values of each image change at most.
        steps: passes backward, `pixels / steps` values each.

    Returns:
        Images (N, C, H, W) in [0, 1], without gradient.
    """
    x = images.clone()
    free = torch.ones_like(x, dtype=torch.bool).flatten(1)
    done = 0
    for step in range(1, steps + 1):
        count = min(pixels, x[0].numel()) * step // steps - done
        done += count
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(x).sum(), x)
        x = x.detach()
        extreme = (gradient > 0).to(x)
        gain = (gradient * (extreme - x)).flatten(1).where(free, -torch.inf)
        chosen = gain.topk(count, dim=1).indices
        free.scatter_(1, chosen, False)
        flat = x.flatten(1).scatter(1, chosen, extreme.flatten(1).gather(1, chosen))
        x = flat.view_as(x)
    return x
