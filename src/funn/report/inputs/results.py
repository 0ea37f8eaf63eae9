"""What was evaluated, and which result stands for a cell of a table.

A table's row has settings: those that conf/ declares. A result belongs to it only if its attack had
them; an encoder that was trained with others is named with the difference.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from funn.artifacts.files import read_json
from funn.artifacts.layout import STATUS, evaluations, studies_of
from funn.report.inputs.age import age
from funn.report.inputs.paper import SETTINGS, Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What the report reads of one finished attack: its result.json, and where that lies.

    The figures are those of `funn.evaluation.records.metrics.Summary`.

    Attributes:
        folder: of the attack, relative to outputs/.
        encoder: the readable name of what was attacked, with its data set where there are several.
        run: the folder name of the classifier's training.
        defense: by which it was trained.
        changed: what differs from that defence's declared training, by dotted key.
        attack: its name.
        protocol: "foolbox1", "strict" or "both".
        source: the run whose classifier the attack saw; None for the one attacked.
        settings: of the attack.
        attack_changed: what of them conf/attack does not declare.
        test_images: how many test images there are.
        data: what is known of the data set.
        settings_trained: what the classifier was trained with; None for a user's own.
        trained: the metrics at the end of its training.
        parents: the stages that it was trained by.
        seed: of its training.
        config: of the evaluation.
        revision: of the code.
        date: of the evaluation.
        seconds: that the attack took.
        iterations: the figures after fewer iterations, by their number.
        curve: success against iterations.
        machine: what it ran on.
        packages: and with.
        python: its version.
    """

    folder: str
    encoder: str
    run: str
    defense: str
    changed: dict[str, Any]
    attack: str
    protocol: str
    source: str | None
    settings: dict[str, Any]
    attack_changed: dict[str, Any]
    test_images: int
    data: dict[str, Any]
    settings_trained: dict[str, Any] | None
    seed: int | None
    images: int
    attacked: int
    clean_accuracy: float | None
    clean_rejected: float | None
    success_rate: float | None
    success_rate_verified: float | None
    success_rate_undetected: float | None
    noise_level: float | None
    noise_level_verified: float | None
    rounding_share: float | None
    trained: Any = None
    parents: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    date: str = ""
    seconds: float = 0.0
    iterations: dict[str, dict[str, Any]] = field(default_factory=dict)
    curve: dict[str, Any] | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, Any] = field(default_factory=dict)
    python: str | None = None


# What the report looks for in what an evaluation left; results of older revisions lack some of it.
_OF_ALL = {"title", "changed", "data"}
_OF_ATTACKS = {
    "settings", "settings_trained", "source", "clean_rejected", "success_rate_undetected",
    "unexplained", "attack_changed",
}  # fmt: skip


def collect(root: Path) -> list[Result]:
    """Return the result of every finished attack under `root`/eval, oldest first.

    Each is the content of its result.json and: `folder`, relative to `root`; `encoder`, its
    title, with its data set where the same was attacked on several.
    """
    results, sets = [], data_sets(root)
    for path in sorted(evaluations(root), key=age):
        content = _finished(path)
        if content is None:
            continue
        study = "study" in content
        if not content.keys() >= (_OF_ALL if study else _OF_ALL | _OF_ATTACKS):
            log.warning("%s is left out: an older revision wrote it, evaluate again", path.parent)
        elif not study:
            folder = str(path.parent.relative_to(root))
            results.append(_result(content, folder, sets))
    return results


def studies(root: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Return what was found out of each classifier beside attacks, by its encoder.

    Of one classifier the result of the most images, and of those the newest; of several that are
    called the same on the same data the one that was examined last.

    Args:
        root: the folder outputs/.
        kind: of study, as `funn.artifacts.layout` names it.
    """
    found: dict[tuple[str, str], list[tuple[tuple[float, str], dict[str, Any]]]] = {}
    for path in studies_of(root, kind):
        content = _finished(path)
        if content is None or not content.keys() >= _OF_ALL:
            continue
        entry = {**content, "folder": path.parent}
        found.setdefault((content["title"], content["data"]["name"]), []).append((age(path), entry))
    chosen = []
    for entries in found.values():
        _, newest = max(entries, key=lambda entry: entry[0])
        same = [each for each in entries if each[1]["run"] == newest["run"]]
        chosen.append(max(same, key=lambda entry: (entry[1]["images"], entry[0]))[1])
    ordered = sorted(chosen, key=lambda content: str(content["run"]))
    sets = data_sets(root)
    return {
        name: content | {"encoder": name}
        for content in ordered
        for name in (told_apart(content, sets),)
    }


def _finished(path: Path) -> dict[str, Any] | None:
    """The content of a result.json; None while it is not finished."""
    content, status = read_json(path), read_json(path.parent / STATUS)
    return content if (status or {}).get("state") == "finished" else None


def data_sets(root: Path) -> dict[str, set[str]]:
    """The data sets that each encoder was attacked or examined on, of all under `root`/eval."""
    sets: dict[str, set[str]] = {}
    for path in evaluations(root):
        content = read_json(path)
        if content is not None and content.keys() >= _OF_ALL:
            sets.setdefault(content["title"], set()).add(content["data"]["name"])
    return sets


def told_apart(content: Mapping[str, Any], sets: Mapping[str, set[str]]) -> str:
    """The title of what a result is of, with its data set where it was attacked on several.

    Args:
        content: of a result.json.
        sets: see `data_sets`.
    """
    title, data = str(content["title"]), content["data"]["name"]
    return f"{title} on {data}" if len(sets.get(title, ())) > 1 else title


def _result(content: Mapping[str, Any], folder: str, sets: Mapping[str, set[str]]) -> Result:
    return Result(**_known(content) | {"folder": folder, "encoder": told_apart(content, sets)})


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a `Result` holds of a result.json."""
    known = {each.name for each in fields(Result)}
    return {name: value for name, value in content.items() if name in known}


def images_of(result: Result) -> str:
    """How many images were attacked, and of how many if that is not all."""
    images, every = result.images, result.test_images
    return str(images) if images == every else f"{images} of {every}"


def representatives(results: Sequence[Result], rows: Sequence[Row]) -> dict[str, str]:
    """Choose one run for each defence, so that a table of them never mixes two trainings.

    One trained as conf/ declares before others; of these the one that fills the most of `rows`, and
    then the newest.

    Returns:
        The run's name by defence.
    """
    best: dict[str, tuple[tuple[bool, int, int], str]] = {}
    for number, result in enumerate(results):
        run = result.run
        filled = sum(
            find(results, run, row, protocol) is not None
            for row in rows
            for protocol in ("foolbox1", "strict")
        )
        rank = ((not result.changed, filled, number), run)
        best[result.defense] = max(best.get(result.defense, rank), rank)
    return {defense: run for defense, (_, run) in best.items()}


def find(
    results: Sequence[Result], run: str, row: Row, protocol: str, source: str | None = None
) -> Result | None:
    """The result for a cell: of several the one of the most images, and of those the newest.

    `source` is the run whose classifier the attack saw; None for the run itself.
    """
    cells = []
    for number, result in enumerate(results):
        if (result.run, result.attack, result.source) != (run, row.attack, source):
            continue
        if result.protocol not in (protocol, "both"):
            continue
        cell = at_steps(result, row.steps)
        usual = result.attack_changed.keys() <= {"steps"} and _has_settings(result)
        if usual and cell is not None:
            cells.append((cell.images, number, cell))
    return max(cells)[2] if cells else None


def _has_settings(result: Result) -> bool:
    """Whether an attack was run with what its rows stand for."""
    return all(
        result.settings.get(name) == value
        for name, value in SETTINGS.get(result.attack, {}).items()
        if name != "push" or result.protocol == "strict"
    )


def each_protocol(
    results: Sequence[Result], run: str, row: Row, source: str | None = None
) -> list[Result]:
    """The results for a row's cells, one for each protocol, or one that is the same under both."""
    found = [find(results, run, row, protocol, source) for protocol in ("foolbox1", "strict")]
    there = [result for result in found if result is not None]
    same = len(there) == 2 and there[0].folder == there[1].folder
    return there[:1] if same else there


def at_steps(result: Result, steps: int | None) -> Result | None:
    """The figures after so many iterations, if the result has them; None: after those of conf/."""
    if steps is None:
        return None if "steps" in result.attack_changed else result
    if steps == result.settings.get("steps"):
        return result
    shorter = result.iterations.get(str(steps))
    return None if shorter is None else replace(result, **_known(shorter))
