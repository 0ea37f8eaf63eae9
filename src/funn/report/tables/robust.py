"""Tables of what withstands the strongest attacks, of hidden gradients, and of the features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from funn.artifacts.layout import FEATURES, MASKING, ROBUST
from funn.evaluation.records.metrics import percent
from funn.report.inputs.results import studies
from funn.report.tables.origins import revision
from funn.report.tables.table import Table

_NORMS = {"l2": "L2", "linf": "Linf"}


def robust_table(root: Path) -> Table:
    """Robust accuracy at each radius, the worst of all attacks of suite=strong."""
    found = studies(root, ROBUST)
    columns = sorted(
        {
            (norm, float(eps))
            for content in found.values()
            for norm in _NORMS
            for eps in content.get(norm, {})
        }
    )
    rows = []
    for encoder, content in found.items():
        cells = [content.get(norm, {}).get(f"{eps:g}") for norm, eps in columns]
        there = [cell for cell in cells if cell is not None]
        rows.append(
            [
                encoder,
                percent(content["clean_accuracy"]),
                *(with_interval(cell) for cell in cells),
                " / ".join(dict.fromkeys(str(cell["images"]) for cell in there)),
                revision(content),
            ]
        )
    radii = [f"{_NORMS[norm]} {eps:g}" for norm, eps in columns]
    header = ("encoder", "clean accuracy", *radii, "images", "revision")
    title = "Robust accuracy: share of all images that no attack fools (95 % interval)"
    return Table("robust", title, header, rows)


def with_interval(cell: Mapping[str, Any] | None) -> str:
    """A share with its 95 % interval."""
    if cell is None or cell["interval"] is None:
        return "-"
    low, high = cell["interval"]
    return f"{percent(cell['robust_accuracy'])} ({100 * low:.1f} to {100 * high:.1f})"


def masking_table(root: Path) -> Table:
    """Each check of suite=masking with every classifier's figure; a cross where it is flagged."""
    found = studies(root, MASKING)
    checks: dict[str, tuple[float, str]] = {}
    figures: dict[tuple[str, str], str] = {}
    for encoder, content in found.items():
        for check in content["classifier"]["checks"]:
            checks[check["name"]] = (check["bound"], check["meaning"])
            mark = "" if check["passed"] else " ✗"
            figures[check["name"], encoder] = f"{check['figure']:.4g}{mark}"
    rows = [
        [name, f"{bound:g}", *(figures.get((name, encoder), "-") for encoder in found), meaning]
        for name, (bound, meaning) in checks.items()
    ]
    verdicts = ["flagged" if each["classifier"]["flagged"] else "passed" for each in found.values()]
    if rows:
        rows.append(["verdict", "", *verdicts, ""])
        rows.append(["revision", "", *map(revision, found.values()), ""])
    header = ("check", "bound", *found, "what a larger figure (✗) means")
    return Table("masking", "Robust, or hidden gradients?", header, rows)


def features_table(root: Path) -> Table:
    """Other uses of the features, clean and under attack."""
    uses = {"neighbours": "nearest neighbours", "retrieval": "retrieval", "probe": "linear probe"}
    rows = [
        [
            encoder,
            *(percent(content[use][when]) for use in uses for when in ("clean", "attacked")),
            str(content["images"]),
            revision(content),
        ]
        for encoder, content in studies(root, FEATURES).items()
    ]
    header = ("encoder", *(f"{title}{', attacked' * (when == 'attacked')}"
                           for title in uses.values() for when in ("clean", "attacked")),
              "images", "revision")  # fmt: skip
    title = "Other uses of the features, learned without labels: accuracy"
    return Table("features", title, header, rows)
