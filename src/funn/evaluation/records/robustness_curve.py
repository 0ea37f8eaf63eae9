"""Robust accuracy against eps, from the distance at which attacks fooled each image.

A distance is that of an image's adversarial image from it, in the norm of the threat: 0 where the
classifier is wrong without an attack (a clean error), NaN or infinite where the attack failed. All
arrays of one comparison list the same images in the same order. Nothing here knows which norm it
is, and distances of different norms must not be mixed.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# An attack with a budget returns images that exceed it by rounding, being float32; those count as
# within. An image that was fooled by less than this counts as a clean error.
_ROUNDING = 1e-6


def as_distances(distances: ArrayLike) -> Floats:
    """Return distances (N,) in float64, infinite where the attack failed.

    Raises:
        ValueError: for another shape, or a negative distance.
    """
    found = np.asarray(distances, dtype=np.float64)
    if found.ndim != 1 or bool((found < 0).any()):
        raise ValueError("distances must be (N,), 0 or more, NaN or infinite for failures")
    return np.where(np.isnan(found), np.inf, found)


def robust_accuracy(distances: ArrayLike, eps: ArrayLike) -> Floats:
    """Share of all N images that are classified right and stay so within each eps.

    Args:
        distances: (N,).
        eps: radii, any shape.

    Returns:
        Shares in [0, 1] of the shape of eps; NaN without images.
    """
    found, radii = as_distances(distances), np.asarray(eps, dtype=np.float64)
    if not len(found):
        return np.full(radii.shape, np.nan)
    successes = np.sort(found[np.isfinite(found)])
    return 1 - np.searchsorted(successes, radii + _ROUNDING, side="right") / len(found)


def curve(distances: ArrayLike, until: float | None = None) -> tuple[Floats, Floats]:
    """The curve of `robust_accuracy` as a staircase: where it falls, and its value from there on.

    Args:
        distances: (N,).
        until: where it ends; at the largest distance of a success unless given.

    Returns:
        eps (M,), rising from 0 to `until`, and the robust accuracy at each (M,).
    """
    found = as_distances(distances)
    end = largest(found) if until is None else until
    eps = np.unique(np.concatenate([[0.0], found[found < end], [end]]))
    return eps, robust_accuracy(found, eps)


def largest(distances: ArrayLike) -> float:
    """The largest distance of a success; 0 without one."""
    found = as_distances(distances)
    return float(found[np.isfinite(found)].max(initial=0.0))


def area_under_curve(distances: ArrayLike, until: float) -> float | None:
    """Integral of the robust accuracy over eps from 0 to `until`, exactly; None without images.

    It is the mean over all images of the distance, cut off at `until`, for an image adds 1/N to
    the curve up to its distance.
    """
    found = as_distances(distances)
    return float(np.minimum(found, until).mean()) if len(found) else None


def median_distance(distances: ArrayLike) -> float | None:
    """Median over the images that are classified right, a failure counting as infinite.

    Returns:
        The median; None if it is infinite, or if no image is classified right.
    """
    found = as_distances(distances)
    right = found[found > _ROUNDING]
    if not len(right):
        return None
    # Of two middle values, one infinite, the mean is infinite.
    median = float(np.median(right))
    return median if np.isfinite(median) else None


def eps_at(distances: ArrayLike, accuracy: float = 0.5) -> float | None:
    """The least eps at which the robust accuracy over all images is at most `accuracy`.

    Returns:
        That eps, 0 if clean errors alone suffice; None if no success brings it so low.
    """
    found = np.sort(as_distances(distances))
    # So many must be fooled; less a little, for (1 - accuracy) * N may be off by rounding.
    count = int(np.ceil((1 - accuracy) * len(found) - 1e-9))
    if count <= 0:
        return 0.0
    eps = float(found[count - 1])
    return eps if np.isfinite(eps) else None
