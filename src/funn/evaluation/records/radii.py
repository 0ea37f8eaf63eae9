"""The distance of each image's nearest adversarial image, and robust accuracy from it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from funn.evaluation.records.metrics import wilson
from funn.evaluation.records.table import read_table, write_table

NORMS = ("l0", "l2", "linf")
_SCHEMA = pa.schema([(norm, pa.float32()) for norm in NORMS])
# An image on the border of a ball may lie outside by rounding.
_ROUNDING = 1e-6
Radii = dict[str, Tensor]


def write_radii(path: Path, radii: Radii) -> None:
    """Write the distance (N,) of each image's nearest adversarial image, by norm."""
    write_table(path, pa.table({norm: radii[norm].numpy() for norm in NORMS}))


def read_radii(path: Path) -> Radii:
    """Read the distance (N,) of each image's nearest adversarial image, by norm."""
    table = read_table(path, _SCHEMA)
    return {norm: torch.from_numpy(table[norm].to_numpy().copy()) for norm in NORMS}


def found(radii: Radii, table: pa.Table, images: Tensor) -> None:
    """Lower each image's radius to the distance of a verified adversarial image.

    Args:
        radii: by norm, (N,), infinite where nothing was found; changed in place. A clean error has
            a radius of 0.
        table: records of the attack.
        images: which of the N its rows are.
    """
    success = torch.from_numpy(table["success_verified"].to_numpy(zero_copy_only=False).copy())
    for norm in NORMS:
        distance = torch.from_numpy(table[norm].to_numpy().copy()).to(radii[norm])
        distance = distance.where(success, torch.inf)
        radii[norm][images] = torch.minimum(radii[norm][images], distance)


def survivors(radius: Tensor, eps: float) -> Tensor:
    """The images of radii (N,) that nothing within eps breaks."""
    return (radius > eps + _ROUNDING).nonzero()[:, 0]


def at(radius: Tensor, eps: float) -> dict[str, Any]:
    """Robust accuracy of radii (N,) at eps: the share of all images, with its Wilson interval."""
    left, every = len(survivors(radius, eps)), len(radius)
    return {
        "images": every,
        "robust_accuracy": left / every if every else None,
        "interval": wilson(left, every),
    }
