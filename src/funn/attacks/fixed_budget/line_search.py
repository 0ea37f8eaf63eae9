"""One step along a line: of a fixed length, or of the least length that Foolbox 1.x would find."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from funn.attacks.core.candidates import first_fooling, in_batches
from funn.attacks.core.interface import BatchedAttack, Model, Protocol, check_protocol
from funn.attacks.core.norms import per_image
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState, clean_gradients

# Foolbox 1.x tries this many equal parts of the largest epsilon; if one of the first few is the
# first success, it divides the stretch up to that one again.
_GRID = 1000
_FIRST_FEW = 20
_FINE_GRID = 20


class LineAttack(BatchedAttack):
    """An attack that moves each image once, by `eps` times a direction.

    Args:
        name: the attack's name.
        model: images in [0, 1] to logits.
        eps: length of the step, in the direction's unit.
        protocol: "strict" or "foolbox1".

    Raises:
        ValueError: for a value that is out of range.
    """

    def __init__(self, name: str, model: nn.Module, eps: float, protocol: Protocol) -> None:
        check_protocol(protocol)
        if not eps >= 0:
            raise ValueError(f"eps={eps} must be 0 or more")
        super().__init__(name, model)
        self.eps = eps
        self.protocol: Protocol = protocol


def step_along_gradient(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    direction: Callable[[Tensor], Tensor],
    eps: float,
    protocol: Protocol,
    batch_size: int,
) -> AttackResult:
    """Move each image in a direction that its cross-entropy's gradient gives, and clip it.

    `strict` moves it by `eps`. `foolbox1` moves it by the least epsilon up to `eps` that Foolbox
    1.x finds (`GradientSignAttack` and `GradientAttack` with epsilons=1000 and max_epsilon=eps),
    or by `eps` where there is none.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        direction: makes directions (M, C, H, W) of gradients (M, C, H, W).
        eps: the largest step.
        protocol: see above.
        batch_size: most images in one forward pass.

    Returns:
        The result; `step` is 1 under `strict`, and under `foolbox1` how many epsilons had been
        tried when the first one succeeded.
    """
    state, active, gradients = clean_gradients(model, images, labels, batch_size)
    directions = torch.zeros_like(images)
    directions[active] = direction(gradients)
    if protocol == "foolbox1":
        _grid_search(model, images, labels, directions, active, eps, batch_size, state)
        return state.result()
    state.adversarials = _moved(images, directions, eps)
    state.predict(model, active, labels, 1, batch_size)
    return state.result()


def _grid_search(
    model: Model,
    images: Tensor,
    labels: Tensor,
    directions: Tensor,
    active: Tensor,
    eps: float,
    batch_size: int,
    state: AttackState,
) -> None:
    """Try the grid, then the finer grid below an early success; record the outcome.

    Foolbox also tries a finer grid after a failure. Its points are points of the grid, which have
    all failed, so that is left out.
    """

    def first(grids: Tensor, counts: Tensor) -> Tensor:
        def logits(owners: Tensor, positions: Tensor) -> Tensor:
            return model(_moved(images[owners], directions[owners], grids[owners, positions]))

        predict = partial(in_batches, logits, batch_size)
        return first_fooling(predict, labels, counts, state)

    counts = torch.zeros_like(state.step)
    counts[active] = _GRID
    grid = _parts(torch.full_like(state.step, eps, dtype=torch.float64), _GRID)
    coarse = first(grid, counts)
    found = coarse >= 0
    # -1, for a failure, is the last point.
    epsilons = grid.gather(1, (coarse % _GRID)[:, None])[:, 0]
    counts = torch.where(found & (coarse < _FIRST_FEW), _FINE_GRID - 1, 0)
    grid = _parts(epsilons, _FINE_GRID)
    fine = first(grid, counts)
    # The last point is the success that is known.
    epsilons = grid.gather(1, (fine % _FINE_GRID)[:, None])[:, 0]
    state.adversarials = _moved(images, directions, epsilons)
    state.success |= found
    state.step[found] = coarse[found] + 1


def _parts(epsilons: Tensor, count: int) -> Tensor:
    """Multiples (N, count) of each epsilon / count, as numpy.linspace computes them."""
    parts = torch.arange(1, count + 1, device=epsilons.device) * (epsilons[:, None] / count)
    parts[:, -1] = epsilons
    return parts


def _moved(images: Tensor, directions: Tensor, epsilons: float | Tensor) -> Tensor:
    if isinstance(epsilons, Tensor):
        epsilons = per_image(epsilons.float())
    return (images + epsilons * directions).clamp(0, 1)
