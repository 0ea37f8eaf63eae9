"""The table at the top of the README: each defence by what it costs and what it withstands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from funn.artifacts.layout import ROBUST
from funn.evaluation.records.metrics import percent
from funn.report.inputs.paper import TABLE_1
from funn.report.inputs.results import Result, find, studies
from funn.report.tables.origins import minutes, revision, trained_seconds
from funn.report.tables.robust import with_interval
from funn.report.tables.table import Table

_DEEPFOOL = TABLE_1[0]
_RADII = (("l2", "1.5"), ("linf", "0.1"))


def headline(root: Path, results: Sequence[Result]) -> Table:
    """A row for each classifier that met suite=strong, the most robust last.

    The paper's DeepFool is the success that the attack itself saw under foolbox1; robust accuracy
    is the share of all images that no attack of suite=strong fools, AutoAttack among them.
    """
    summaries = studies(root, ROBUST).values()
    rows = [_row(root, results, each) for each in sorted(summaries, key=_robustness)]
    header = (
        "encoder", "seed", "clean accuracy", "fooled by the paper's DeepFool (L2, 50)",
        "robust accuracy, L2 1.5", "robust accuracy, Linf 0.1", "images", "training, minutes",
        "revision",
    )  # fmt: skip
    return Table("headline", "What each defence withstands, and what it costs", header, rows)


def _robustness(summary: Mapping[str, Any]) -> float:
    cell = summary.get("l2", {}).get("1.5") or {"robust_accuracy": None}
    return float(cell["robust_accuracy"] or 0)


def _row(root: Path, results: Sequence[Result], summary: Mapping[str, Any]) -> list[str]:
    deepfool = find(results, summary["run"], _DEEPFOOL, "foolbox1")
    cells = [summary.get(norm, {}).get(eps) for norm, eps in _RADII]
    there = [str(cell["images"]) for cell in cells if cell is not None]
    return [
        summary["encoder"],
        "-" if summary["seed"] is None else str(summary["seed"]),
        percent(summary["clean_accuracy"]),
        "-"
        if deepfool is None
        else f"{percent(deepfool.success_rate)} of {deepfool.attacked} attacked",
        *map(with_interval, cells),
        " / ".join(dict.fromkeys(there)),
        minutes(trained_seconds(root, [parent["path"] for parent in summary["parents"]])),
        revision(summary),
    ]
