"""The threat model of a norm and an eps: a ball around each image, cut by the box [0, 1].

Random starts in it, projections onto it, projected steps within it, and PGD for training.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from funn.attacks.core.norms import AnyNorm, Norm, length, per_image, unit

# A perturbation of no length has no direction to be scaled along.
_TINY = 1e-12


def random_start(images: Tensor, norm: Norm, eps: float, draw: torch.Generator) -> Tensor:
    """Draw uniformly from the ball around each image (N, C, H, W), and clip to the box."""
    if norm == "linf":
        noise = eps * (2 * torch.rand(images.shape, generator=draw) - 1)
    else:
        noise = unit(torch.randn(images.shape, generator=draw))
        radius = torch.rand(len(images), generator=draw) ** (1 / images[0].numel())
        noise = eps * per_image(radius) * noise
    return (images + noise.to(images)).clamp(0, 1)


def projected_step(
    x: Tensor, gradient: Tensor, images: Tensor, norm: Norm, step_size: float, eps: float
) -> Tensor:
    """Take one step up a gradient, and project onto the ball and the box.

    Args:
        x: where the images are now (N, C, H, W).
        gradient: there (N, C, H, W).
        images: the centres of the balls (N, C, H, W).
        norm: "l2" or "linf".
        step_size: length of the step in that norm.
        eps: radius of the balls in that norm.

    Returns:
        Images (N, C, H, W) in [0, 1].
    """
    if norm == "linf":
        moved = (x + step_size * gradient.sign() - images).clamp(-eps, eps)
    else:
        # Not by `project`: a number by a tensor is divided in other arithmetic than two tensors.
        moved = x + step_size * unit(gradient) - images
        lengths = length(moved, "l2")
        moved = moved * per_image(torch.where(lengths > eps, eps / lengths, 1.0))
    return (images + moved).clamp(0, 1)


def projected_gradient_ascent(
    objective: Callable[[Tensor], Tensor],
    images: Tensor,
    norm: Norm,
    eps: float,
    steps: int,
    draw: torch.Generator,
) -> Tensor:
    """Climb an objective within balls around images, from random starts: PGD for training.

    Args:
        objective: images (N, C, H, W) to what is climbed, (N,) or a sum of it; a network in it is
            frozen by the caller.
        images: the centres of the balls (N, C, H, W) in [0, 1].
        norm: "l2" or "linf".
        eps: radius of the balls in that norm.
        steps: each of 2.5 * eps / steps, as in Madry's code.
        draw: where the starts come from.

    Returns:
        Images (N, C, H, W) in [0, 1], without gradient.
    """
    x = random_start(images, norm, eps, draw)
    for _ in range(steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(x).sum(), x)
        x = projected_step(x.detach(), gradient, images, norm, 2.5 * eps / steps, eps)
    return x


def project(perturbations: Tensor, radius: Tensor, norm: AnyNorm) -> Tensor:
    """Take the nearest point of the ball around zero.

    Args:
        perturbations: (B, C, H, W).
        radius: of each image's ball (B,); for "l0" a whole number.
        norm: of the balls.

    Returns:
        (B, C, H, W). Of values that are as large the first are kept, for "l0".
    """
    if norm == "linf":
        return perturbations.clamp(-per_image(radius), per_image(radius))
    if norm == "l2":
        lengths = length(perturbations, "l2").clamp_min(_TINY)
        return perturbations * per_image(radius / lengths).clamp(max=1)
    sizes = perturbations.flatten(1).abs()
    ordered, order = sizes.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(1, sizes.shape[1] + 1, device=sizes.device).expand_as(order)
    if norm == "l0":
        kept = torch.zeros_like(order).scatter(1, order, rank) <= radius[:, None]
        return perturbations * kept.view_as(perturbations)
    # L1, Duchi et al. 2008: subtract from each value what makes the sum of what is left fit.
    excess = ordered.cumsum(1) - radius[:, None]
    last = (ordered * rank > excess).sum(1, keepdim=True).clamp_min(1)
    cut = (excess.gather(1, last - 1) / last).clamp_min(0)
    shrunk = (sizes - cut).clamp_min(0).view_as(perturbations)
    return shrunk * perturbations.sign()
