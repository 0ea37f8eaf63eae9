"""The two players' objectives, one pure function per term of the paper's equations.

All errors are `mse`, the mean over pixels and batch: the unit of beta (the paper's "L2 loss";
its value 0.07 for a black image only makes sense per pixel). Noise levels (Eq. 9) are L2 norms,
another unit.

An attacker's objective takes `perturbation = mse(A(x), x)`, the left side of Eq. 4, and
`error = mse(x, D(A(x)))`, the left side of Eq. 5, and returns the loss to minimise. Both are
scalars, as the equations are written, or `mse_each` of every image: then each image has to keep the
constraint (`objective=each_image`), and what one image exceeds makes up for no other.
"""

from torch import Tensor


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error over pixels and batch, L_alpha of Eq. 3 to 8.

    Args:
        a: images (N, C, H, W) in [0, 1].
        b: images of the same shape.

    Returns:
        A scalar tensor.
    """
    return (a - b).square().mean()


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
