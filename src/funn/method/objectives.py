"""The two players' objectives, one pure function per term of the paper's equations.

All errors are `mse`, the mean over pixels and batch: the unit of beta (the paper's "L2 loss";
its value 0.07 for a black image only makes sense per pixel). Noise levels (Eq. 9) are L2 norms,
another unit.

An attacker's objective takes `perturbation = mse(A(x), x)`, the left side of Eq. 4, and
`error = mse(x, D(A(x)))`, the left side of Eq. 5, and returns the loss to minimise. Both are
scalars, as the equations are written, or `mse_each` of every image: then each image has to keep the
constraint (`objective=each_image`), and what one image exceeds makes up for no other.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.config.build import build, function, locate
from funn.errors import UserError

AttackerObjective = Callable[[Tensor, Tensor], Tensor]


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error over pixels and batch, L_alpha of Eq. 3 to 8.

    Args:
        a: images (N, C, H, W) in [0, 1].
        b: images of the same shape.

    Returns:
        A scalar tensor.
    """
    return F.mse_loss(a, b)


def mse_each(a: Tensor, b: Tensor) -> Tensor:
    """The same for each image, (N,)."""
    return (a - b).square().flatten(1).mean(1)


def violation(amount: Tensor) -> Tensor:
    """`max(amount, 0)`: a constraint's violation, free of gradient while it is satisfied."""
    return amount.clamp(min=0)


def constrained(perturbation: Tensor, error: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Eq. 4 under the constraint of Eq. 5: `perturbation + gamma * max(beta - error, 0)`.

    The paper prints the penalty of Eq. 8 as `max(error - beta, 0)`, which rewards the attacker
    for failing. Eq. 5 asks for `error >= beta`, and the text says that the penalty is "free when
    the constraint is satisfied": both mean `max(beta - error, 0)`. See `printed` for the other.

    Args:
        perturbation: mse(A(x), x), scalar or (N,).
        error: mse(x, D(A(x))), of the same shape.
        beta: the least error to force, in units of mse.
        gamma: weight of the penalty.
    """
    return (perturbation + gamma * violation(beta - error)).mean()


def printed(perturbation: Tensor, error: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Eq. 8 as printed, `perturbation + gamma * max(error - beta, 0)`: an ablation.

    Below beta the penalty is 0 and the attacker only learns to reconstruct. Arguments as in
    `constrained`.
    """
    return (perturbation + gamma * violation(error - beta)).mean()


def minimax(perturbation: Tensor, error: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Eq. 6 under the constraint of Eq. 7: `-error + gamma * max(perturbation - beta, 0)`.

    The paper's second representation. It gives no way to keep the constraint; this is the penalty
    of Eq. 8 for the other constraint. Here beta bounds the perturbation. Arguments as in
    `constrained`.
    """
    return (-error + gamma * violation(perturbation - beta)).mean()


ONE_GAMMA = "objective=dual has one gamma for all images: leave objective.each_image=false"


class DualAscent(nn.Module):
    """`perturbation + gamma * (beta - error)`, where gamma follows the constraint of Eq. 5.

    The Lagrangian of Eq. 4 and 5, its multiplier raised by `rate * (beta - error)` with each of
    the attacker's steps and never below 0: it grows until the attacker reaches beta, and falls when
    it exceeds it. Not in the paper, whose gamma stays.

    Args:
        beta: the least error to force, in units of mse.
        gamma: where the multiplier starts.
        rate: how fast it follows, per unit of mse.

    Raises:
        ValueError: for a rate that is not above 0.
        UserError: when called with the errors of single images: one gamma cannot follow them.
    """

    gamma: Tensor

    def __init__(self, beta: float, gamma: float, rate: float) -> None:
        if not rate > 0:
            raise ValueError(f"rate={rate} must be above 0")
        super().__init__()
        self.beta = beta
        self.rate = rate
        self.register_buffer("gamma", torch.tensor(float(gamma)))

    def forward(self, perturbation: Tensor, error: Tensor) -> Tensor:
        """The loss of one attacker step, before gamma moves. Both arguments are scalars."""
        if error.ndim:
            raise UserError(ONE_GAMMA)
        loss = perturbation + self.gamma * (self.beta - error)
        if torch.is_grad_enabled():
            rise = self.rate * (self.beta - error.detach())
            self.gamma = (self.gamma + rise).clamp(min=0)
        return loss


# What each minimises, as Figure 1 of the report shows it; tested to be what it computes. gamma_t
# is a gamma that moves.
FORMULAS: Mapping[object, str] = {
    constrained: "perturbation + gamma * max(beta - error, 0)",
    printed: "perturbation + gamma * max(error - beta, 0)",
    minimax: "-error + gamma * max(perturbation - beta, 0)",
    DualAscent: "perturbation + gamma_t * (beta - error)",
}


class AttackerLoss(NamedTuple):
    """What the attacker minimises.

    Attributes:
        objective: loss from (perturbation, error), both scalar mse, or (N,).
        each_image: whether it gets the mse of each image, (N,).
    """

    objective: AttackerObjective
    each_image: bool = False

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        """The mse that the objective gets, of images (N, C, H, W)."""
        return mse_each(a, b) if self.each_image else mse(a, b)


def attacker_objective(spec: Mapping[str, Any], beta: float, gamma: float) -> AttackerObjective:
    """Return what `objective.attacker` names, as a function of (perturbation, error)."""
    if isinstance(locate(spec), type):
        made: AttackerObjective = build(spec, beta=beta, gamma=gamma)
        return made
    return partial(function(spec), beta=beta, gamma=gamma)
