"""How near the nearest adversarial image lies that any attack of suite=strong found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from funn.artifacts.layout import RADII, ROBUST
from funn.evaluation.records.metrics import percent
from funn.evaluation.records.radii import read_radii
from funn.evaluation.records.robustness_curve import area_under_curve, median_distance
from funn.report.inputs.results import studies
from funn.report.tables.origins import revision
from funn.report.tables.table import Table

_NORMS = {"l0": "L0", "l2": "L2", "linf": "Linf"}


def distances_table(root: Path) -> Table:
    """By norm, the median distance and the mean of the robust accuracy over eps.

    The median is over the images that are classified right; "-" where half of them were never
    fooled. The mean is over eps from 0 to the largest that was attacked: the area under the curve,
    as a share. Both say no less than the truth, as every figure of attacks does: a nearer image may
    exist.
    """
    found = studies(root, ROBUST)
    ends = {(norm, _largest(content, norm)) for content in found.values() for norm in _NORMS}
    columns = sorted((norm, eps) for norm, eps in ends if eps > 0)
    rows = [_row(encoder, content, columns) for encoder, content in found.items()]
    header = ("encoder", *(f"median, {name}" for name in _NORMS.values()),
              *(f"mean accuracy up to {_NORMS[norm]} {eps:g}" for norm, eps in columns),
              "images", "revision")  # fmt: skip
    title = "Distance of the nearest adversarial image found, and the mean of the robust accuracy"
    return Table("distances", title, header, rows)


def _row(
    encoder: str, content: Mapping[str, Any], columns: Sequence[tuple[str, float]]
) -> list[str]:
    distances = read_radii(content["folder"] / RADII)
    medians = [median_distance(distances[norm]) for norm in _NORMS]
    means = []
    for norm, eps in columns:
        area = area_under_curve(distances[norm], eps)
        beyond = eps > _largest(content, norm)
        means.append(None if area is None or beyond else area / eps)
    return [
        encoder,
        *("-" if median is None else f"{median:.3g}" for median in medians),
        *map(percent, means),
        str(content["images"]),
        revision(content),
    ]


def _largest(content: Mapping[str, Any], norm: str) -> float:
    """The largest eps of a norm that was attacked; 0 for none."""
    return max(map(float, content.get(norm, {})), default=0.0)
