"""Robust accuracy against eps, from the distance at which attacks fooled each image.

A distance is that of an image's adversarial image from it, in the norm of the threat: 0 where the
classifier is wrong without an attack (a clean error), NaN or infinite where the attack failed. All
arrays of one comparison list the same images in the same order. Nothing here knows which norm it
is, and distances of different norms must not be mixed.
"""

from collections.abc import Mapping
from typing import Any

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


def smallest(attacks: Mapping[str, ArrayLike]) -> Floats:
    """Return for each image the least distance (N,) that any attack reached: the worst case.

    Args:
        attacks: distances (N,) of each attack, by its name.

    Raises:
        ValueError: without an attack, or if they list different numbers of images.
    """
    found = [as_distances(distances) for distances in attacks.values()]
    if len({len(distances) for distances in found}) != 1:
        raise ValueError("attacks must be at least one, all on the same images")
    least: Floats = np.minimum.reduce(found)
    return least


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


def optimality(distances: ArrayLike, best: ArrayLike) -> float | None:
    """How near an attack comes to the smallest distances that are known (AttackBench's measure).

    With A the area under the attack's curve and A* that under the curve of the smallest distances,
    both up to the largest of these, it is 1 - (A - A*) / (clean accuracy * that largest - A*):
    1 for an attack that is always the best, 0 for one that fools no image.

    Args:
        distances: of the attack (N,).
        best: the smallest of all attacks, this one among them, on the same images (N,).

    Returns:
        The optimality in [0, 1]; None where there is nothing to compare: no image that is right
        when clean was fooled, or all of them at one and the same distance.

    Raises:
        ValueError: if an image of the attack is nearer than the smallest, or for other numbers.
    """
    found, known = as_distances(distances), as_distances(best)
    if found.shape != known.shape or bool((found < known).any()):
        raise ValueError("best must be the smallest distances on the same images")
    end = largest(known)
    if end <= _ROUNDING:
        return None
    area, least = np.minimum(found, end).mean(), np.minimum(known, end).mean()
    # The curve of an attack that fools no image which is right when clean.
    failing = end * float((known > _ROUNDING).mean())
    if np.isclose(failing, least, rtol=1e-12):
        return None
    return float(1 - (area - least) / (failing - least))


def summary(attacks: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """The figures of a defence under several attacks on the same images, as plain values.

    Args:
        attacks: distances (N,) of each attack, by its name.

    Returns:
        `clean_accuracy`; `median` and `eps_at_50` of the smallest distances; `area` under their
        curve up to `largest`, the largest of them; `optimality` of each attack by name.
    """
    best = smallest(attacks)
    end = largest(best)
    clean = float(robust_accuracy(best, 0.0)) if len(best) else None
    return {
        "images": len(best),
        "clean_accuracy": clean,
        "median": median_distance(best),
        "eps_at_50": eps_at(best),
        "largest": end,
        "area": area_under_curve(best, end),
        "optimality": {name: optimality(found, best) for name, found in attacks.items()},
    }
