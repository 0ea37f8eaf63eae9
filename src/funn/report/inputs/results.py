"""What was evaluated, and which result stands for a cell of a table.

A table's row has settings: those that conf/ declares. A result belongs to it only if its attack had
them; an encoder that was trained with others is named with the difference.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from funn.artifacts.files import read_json
from funn.artifacts.layout import STATUS, evaluations, studies_of
from funn.config.compose import declared_attack, declared_training, options_of
from funn.report.inputs.paper import Row

log = logging.getLogger(__name__)

# Whose options stand for several keys.
_GROUPS = ("model", "head", "attacker", "objective")

Result = dict[str, Any]
# What the tables look for; results of older revisions lack some of it.
_NEEDED = {
    "settings", "settings_trained", "source", "clean_rejected", "success_rate_undetected", "data",
    "unexplained",
}  # fmt: skip


def collect(root: Path) -> list[Result]:
    """Return the result of every finished attack under `root`/eval, oldest first.

    Each is the content of its result.json and: `folder`, relative to `root`; `encoder`, its
    defence's name with what differs from conf/, and with its data set where the same was attacked
    on several; `encoder_changes` and `attack_changes`, these differences as `key=value`.
    """
    paths = sorted(evaluations(root), key=lambda path: path.stat().st_mtime)
    attack = cache(declared_attack)
    results = []
    for path in paths:
        content, status = read_json(path), read_json(path.parent / STATUS)
        if content is None or status is None or status.get("state") != "finished":
            continue
        if "study" in content:
            continue
        if not content.keys() >= _NEEDED:
            log.warning("%s is left out: an older revision wrote it, evaluate again", path.parent)
            continue
        changes = encoder_changes(content)
        protocol = "strict" if content["protocol"] == "both" else content["protocol"]
        results.append(
            {
                **content,
                "folder": str(path.parent.relative_to(root)),
                "encoder": titled(content["defense"], changes),
                "encoder_changes": changes,
                "attack_changes": differences(
                    content["settings"], attack(content["attack"], protocol)
                ),
            }
        )
    return told_apart(results, data_sets(root))


def studies(root: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Return what was found out of each classifier (see `funn.evaluation.studies`), by its encoder.

    Of one classifier the result of the most images, and of those the newest; of several that are
    called the same on the same data the one that was examined last.
    """
    found: dict[tuple[str, str], list[tuple[float, dict[str, Any]]]] = {}
    for path in studies_of(root, kind):
        content, status = read_json(path), read_json(path.parent / STATUS)
        if content is None or status is None or status.get("state") != "finished":
            continue
        encoder = titled(content["defense"], encoder_changes(content))
        entry = {**content, "folder": path.parent, "encoder": encoder}
        found.setdefault((encoder, content["data"]["name"]), []).append(
            (path.stat().st_mtime, entry)
        )
    chosen = []
    for entries in found.values():
        _, newest = max(entries, key=lambda entry: entry[0])
        same = [each for each in entries if each[1]["run"] == newest["run"]]
        chosen.append(max(same, key=lambda entry: (entry[1]["images"], entry[0]))[1])
    ordered = sorted(chosen, key=lambda content: str(content["run"]))
    return {content["encoder"]: content for content in told_apart(ordered, data_sets(root))}


def data_sets(root: Path) -> dict[str, set[str]]:
    """The data sets that each encoder was attacked or examined on, of all under `root`/eval."""
    sets: dict[str, set[str]] = {}
    for path in evaluations(root):
        content = read_json(path)
        if content is not None and "data" in content:
            encoder = titled(content["defense"], encoder_changes(content))
            sets.setdefault(encoder, set()).add(content["data"]["name"])
    return sets


def told_apart(
    contents: Sequence[dict[str, Any]], sets: Mapping[str, set[str]]
) -> list[dict[str, Any]]:
    """Name the data set in `encoder` where the same encoder was attacked on several.

    Args:
        contents: results with their `encoder`.
        sets: see `data_sets`.
    """
    return [
        content | {"encoder": f"{content['encoder']} on {content['data']['name']}"}
        if len(sets.get(content["encoder"], ())) > 1
        else content
        for content in contents
    ]


def encoder_changes(content: Mapping[str, Any]) -> list[str]:
    """Say in what a victim's training differs from conf/, as what to type after `defense=NAME`.

    Options of groups where they say it shorter: ["head=margin", "seed=1"]. Nothing for a user's own
    classifier.

    Args:
        content: of a file that an evaluation left: `defense` and `settings_trained`.
    """
    settings = content["settings_trained"]
    if settings is None:
        return []
    return list(_explained(content["defense"], json.dumps(settings)))


@cache
def _explained(defense: str, text: str) -> tuple[str, ...]:
    settings = json.loads(text)
    training = cache(declared_training)
    keys = tuple(settings)
    chosen: tuple[str, ...] = ()
    rest = differences(settings, training(defense, keys))
    for group in _GROUPS if rest else ():
        for option in options_of(group):
            typed = (*chosen, f"{group}={option}")
            changes = differences(settings, training(defense, keys, *typed))
            if len(changes) + len(typed) < len(rest) + len(chosen):
                rest, chosen = changes, typed
                break
    return (*chosen, *rest)


def images_of(result: Result) -> str:
    """How many images were attacked, and of how many if that is not all."""
    images, every = result["images"], result["test_images"]
    return str(images) if images == every else f"{images} of {every}"


def differences(found: Any, declared: Any, key: str = "") -> list[str]:
    """Return where a nested mapping differs from a second, as `dotted.key=value` of the first.

    A key that the first lacks is no difference: an older revision had no such option, and what is
    added leaves by default what was. Nor is a class that has moved to another module.
    """
    if isinstance(found, Mapping) and isinstance(declared, Mapping):
        prefix = f"{key}." if key else ""
        return [
            line
            for name, value in found.items()
            for line in differences(value, declared.get(name), f"{prefix}{name}")
        ]
    if isinstance(found, Mapping):  # nothing is declared: all of it differs
        return differences(found, {}, key)
    if key.endswith("_target_"):
        found, declared = (str(target).rpartition(".")[2] for target in (found, declared))
    return [] if found == declared else [f"{key}={found}"]


def titled(name: str, changes: Sequence[str]) -> str:
    """A name with what is unusual about it."""
    return f"{name} ({', '.join(changes)})" if changes else name


def representatives(results: Sequence[Result], rows: Sequence[Row]) -> dict[str, str]:
    """Choose one run for each defence, so that a table of them never mixes two trainings.

    One trained as conf/ declares before others; of these the one that fills the most of `rows`, and
    then the newest.

    Returns:
        The run's name by defence.
    """
    best: dict[str, tuple[tuple[bool, int, int], str]] = {}
    for age, result in enumerate(results):
        run = result["run"]
        filled = sum(
            find(results, run, row, protocol) is not None
            for row in rows
            for protocol in ("foolbox1", "strict")
        )
        rank = ((not result["encoder_changes"], filled, age), run)
        best[result["defense"]] = max(best.get(result["defense"], rank), rank)
    return {defense: run for defense, (_, run) in best.items()}


def find(
    results: Sequence[Result], run: str, row: Row, protocol: str, source: str | None = None
) -> Result | None:
    """The result for a cell: of several the one of the most images, and of those the newest.

    `source` is the run whose classifier the attack saw; None for the run itself.
    """
    cells = []
    for age, result in enumerate(results):
        if (result["run"], result["attack"], result["source"]) != (run, row.attack, source):
            continue
        if result["protocol"] not in (protocol, "both"):
            continue
        changes = [change for change in result["attack_changes"] if not change.startswith("steps=")]
        cell = at_steps(result, row.steps)
        if not changes and cell is not None:
            cells.append((cell["images"], age, cell))
    return max(cells)[2] if cells else None


def each_protocol(
    results: Sequence[Result], run: str, row: Row, source: str | None = None
) -> list[Result]:
    """The results for a row's cells, one for each protocol, or one that is the same under both."""
    found = [find(results, run, row, protocol, source) for protocol in ("foolbox1", "strict")]
    there = [result for result in found if result is not None]
    same = len(there) == 2 and there[0]["folder"] == there[1]["folder"]
    return there[:1] if same else there


def at_steps(result: Result, steps: int | None) -> Result | None:
    """The figures after so many iterations, if the result has them; None: after those of conf/."""
    if steps is None:
        own = any(change.startswith("steps=") for change in result["attack_changes"])
        return None if own else result
    if steps == result["settings"].get("steps"):
        return result
    shorter = result.get("iterations", {}).get(str(steps))
    return None if shorter is None else {**result, **shorter}
