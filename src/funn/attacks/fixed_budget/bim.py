"""Basic iterative method (Kurakin et al. 2016), the "Iterative" FGSM of the paper's tables."""

import torch
from torch import Tensor, nn

from funn.attacks.core.interface import BatchedAttack, Model, Protocol, check_protocol
from funn.attacks.core.losses import cross_entropy_gradient
from funn.attacks.core.norms import per_image
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import AttackState, clean_gradients, fooled

_ALPHA = 0.001
# Foolbox 1.x tries this many equal parts of the largest step size.
_SIZES = 100


class BIM(BatchedAttack):
    """BIM behind the torchattacks interface.

    Args:
        model: images in [0, 1] to logits.
        eps: largest change of a pixel.
        alpha: size of a step under `strict`, 0.001 unless given. `foolbox1` tries many sizes of
            its own, so it may not be given there.
        steps: number of steps.
        protocol: "strict", steps of `alpha` kept within `eps`, all of them, and the last image
            counts (torchattacks' BIM), or "foolbox1", the paper's tool, which tries many step
            sizes up to eps / steps and takes the nearest success
            (IterativeGradientSignAttack with epsilons=100 and max_epsilon=eps).

    Raises:
        ValueError: for a value that is out of range, or an `alpha` that would have no effect.
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 0.005,
        alpha: float | None = None,
        steps: int = 10,
        protocol: Protocol = "strict",
    ) -> None:
        check_protocol(protocol)
        if not eps >= 0 or (alpha is not None and not alpha >= 0) or steps < 1:
            raise ValueError("eps and alpha must be 0 or more, steps 1 or more")
        if protocol == "foolbox1" and alpha is not None:
            raise ValueError(f"alpha={alpha} has no effect under foolbox1: leave it out")
        super().__init__("BIM", model)
        self.eps = eps
        self.alpha = _ALPHA if alpha is None else alpha
        self.steps = steps
        self.protocol: Protocol = protocol

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `bim` with this attack's settings."""
        return bim(
            model,
            images,
            labels,
            eps=self.eps,
            alpha=self.alpha,
            steps=self.steps,
            protocol=self.protocol,
            batch_size=self.batch_size,
        )


def bim(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    alpha: float,
    steps: int,
    protocol: Protocol,
    batch_size: int,
) -> AttackResult:
    """Move every pixel by the sign of the cross-entropy's gradient, several times.

    A pixel whose gradient is zero stays; so does an image whose gradient is not finite.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        eps: see `BIM`.
        alpha: see `BIM`; not used under `foolbox1`.
        steps: see `BIM`.
        protocol: see `BIM`.
        batch_size: most images in one forward pass.

    Returns:
        The result; `step` is `steps` under `strict`, and under `foolbox1` how many images had
        been tried when the first one succeeded (which need not be the nearest, which is returned).
        A failure under `foolbox1` ends where the largest steps led.
    """
    state, active, gradients = clean_gradients(model, images, labels, batch_size)
    if len(active) and protocol == "strict":
        _fixed_steps(model, images, labels, active, gradients, eps, alpha, steps, batch_size, state)
    elif len(active):
        _step_size_search(
            model, images, labels, active, gradients, eps / steps, steps, batch_size, state
        )
    return state.result()


def _fixed_steps(
    model: Model,
    images: Tensor,
    labels: Tensor,
    active: Tensor,
    gradients: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    batch_size: int,
    state: AttackState,
) -> None:
    """Take all steps within the eps-ball and the box; predict where they end."""
    for batch, first in zip(active.split(batch_size), gradients.split(batch_size), strict=True):
        low, high = images[batch] - eps, images[batch] + eps
        x, gradient = images[batch], first
        for number in range(1, steps + 1):
            x = (x + alpha * gradient.sign()).clamp(low, high).clamp(0, 1).requires_grad_()
            logits = model(x)
            if number < steps:
                gradient = cross_entropy_gradient(logits, labels[batch], x)
                state.count_backward(batch, gradient)
                x = x.detach()
        state.adversarials[batch] = x.detach()
        state.update(batch, logits.detach(), labels[batch], steps)
    state.forwards[active] += steps - 1  # `update` has counted the last pass


def _step_size_search(
    model: Model,
    images: Tensor,
    labels: Tensor,
    active: Tensor,
    gradients: Tensor,
    largest: float,
    steps: int,
    batch_size: int,
    state: AttackState,
) -> None:
    """Take all steps with each step size; keep the nearest success on any trajectory.

    Nearest in the mean square, the first of equals.
    """
    device = images.device
    sizes = torch.arange(1, _SIZES + 1, device=device).double() * (largest / _SIZES)
    nearest = torch.full((len(images),), torch.inf, dtype=torch.float64, device=device)
    # All images with the least size, then all with the next: by rank, as Foolbox tries them.
    rows = torch.arange(len(active), device=device).repeat(_SIZES)
    ranks = torch.arange(_SIZES, device=device).repeat_interleave(len(active))
    for row, rank in zip(rows.split(batch_size), ranks.split(batch_size), strict=True):
        batch = active[row]

        reached = _trajectories(
            model, images, labels, batch, gradients[row], sizes[rank].float(), steps, state
        )
        for k in rank.unique().tolist():  # within one rank no image occurs twice
            here = rank == k
            owner = batch[here]
            distance, best, number = (part[here] for part in reached)
            new = (number > 0) & (state.step[owner] < 0)
            state.step[owner[new]] = k * steps + number[new]
            closer = distance < nearest[owner]
            nearest[owner[closer]] = distance[closer]
            # Where nothing has succeeded yet, the end of this trajectory stands for the failure.
            shown = closer | nearest[owner].isinf()
            state.adversarials[owner[shown]] = best[shown]
    state.success[active] = nearest[active].isfinite()


def _trajectories(
    model: Model,
    images: Tensor,
    labels: Tensor,
    batch: Tensor,
    gradient: Tensor,
    sizes: Tensor,
    steps: int,
    state: AttackState,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take all steps of some size each.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        images: clean (N, C, H, W).
        labels: (N,).
        batch: which of the images (B,); some may occur repeatedly.
        gradient: at the clean images (B, C, H, W).
        sizes: (B,).
        steps: number of steps.
        state: where the passes are counted.

    Returns:
        Squared distance (B,) of the nearest success, inf for none; that image, or the last one
        (B, C, H, W); the number of the step at the first success (B,), 0 for none.
    """
    clean, labels = images[batch], labels[batch]
    nearest = sizes.new_full(sizes.shape, torch.inf, dtype=torch.float64)
    first = torch.zeros_like(labels)
    best, x = clean.clone(), clean
    sizes = per_image(sizes)
    for number in range(1, steps + 1):
        x = (x + sizes * gradient.sign()).clamp(0, 1).requires_grad_()
        logits = model(x)
        if number < steps:
            gradient = cross_entropy_gradient(logits, labels, x)
            state.count_backward(batch, gradient)
        x = x.detach()
        state.count_forward(batch, logits.detach(), labels)
        wrong = fooled(logits.detach(), labels).nonzero()[:, 0]
        if len(wrong):
            first[wrong[first[wrong] == 0]] = number
            distance = (x[wrong] - clean[wrong]).double().square().sum((1, 2, 3))
            closer = distance < nearest[wrong]
            nearest[wrong[closer]] = distance[closer]
            best[wrong[closer]] = x[wrong[closer]]
    failed = nearest.isinf()
    best[failed] = x[failed]
    return nearest, best, first
