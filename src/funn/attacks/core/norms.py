"""Lp norms of perturbations, and vectors of length 1."""

from typing import Literal

import torch
from torch import Tensor

# Of a threat model (a ball of radius eps), and all that a perturbation may be measured in.
Norm = Literal["l2", "linf"]
AnyNorm = Literal["l0", "l1", "l2", "linf"]

_ORDER = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": torch.inf}
# Of the norm that measures a gradient where a step is measured in the other.
DUAL: dict[AnyNorm, AnyNorm] = {"l1": "linf", "l2": "l2", "linf": "l1"}


def check_norm(norm: str) -> None:
    """Require the norm of a threat model.

    Raises:
        ValueError: for another.
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm={norm} must be l2 or linf")


def length(perturbations: Tensor, norm: AnyNorm) -> Tensor:
    """Norm (B,) of perturbations (B, ...); for "l0" the number of values that are not zero."""
    lengths: Tensor = perturbations.flatten(1).norm(p=_ORDER[norm], dim=1)
    return lengths


def length_by_sum(perturbations: Tensor, norm: Norm) -> Tensor:
    """Norm (B,) of perturbations (B, ...), with L2 in the arithmetic of AutoAttack's authors.

    Its last bit is not that of `length`, and hundreds of steps carry that on to the results.
    """
    flat = perturbations.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.square().sum(1).sqrt()


def unit(gradients: Tensor) -> Tensor:
    """Scale each gradient (N, C, H, W) to an L2 norm of 1; zero stays zero."""
    # Divided by the maximum first, for the squares of a saturated network's gradient underflow.
    largest = gradients.abs().amax((1, 2, 3), keepdim=True)
    scaled = gradients / largest.where(largest > 0, 1)
    norm = scaled.norm(p=2, dim=(1, 2, 3), keepdim=True)
    unit: Tensor = scaled / norm.where(norm > 0, 1)
    return unit


def per_image(values: Tensor) -> Tensor:
    """Shape one value for each image (B,) as (B, 1, 1, 1)."""
    return values[:, None, None, None]
