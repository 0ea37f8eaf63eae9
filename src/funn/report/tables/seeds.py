"""How far a defence's figures differ between seeds."""

import statistics
from collections.abc import Callable, Sequence

from funn.evaluation.records.metrics import noise, percent
from funn.report.inputs.paper import Row
from funn.report.inputs.results import Result, find, images_of, representatives
from funn.report.tables.table import Table

_MEASURES: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("success tracked", "success_rate", percent),
    ("success verified", "success_rate_verified", percent),
    ("noise tracked", "noise_level", noise),
    ("noise verified", "noise_level_verified", noise),
)
_HEADER = (
    "attack", "encoder", "protocol", "seeds",
    *(f"{name}: {what}" for name, *_ in _MEASURES for what in ("mean", "range", "deviation")),
    "images",
)  # fmt: skip


def seed_runs(results: Sequence[Result], rows: Sequence[Row]) -> dict[str, dict[int, str]]:
    """The runs of each defence that were trained as conf/ declares but for the seed.

    Returns:
        By defence and seed, in order, the run that `representatives` chooses of that seed.
    """
    declared = [
        result
        for result in results
        if result.seed is not None and result.changed.keys() <= {"seed"}
    ]
    runs: dict[str, dict[int, str]] = {}
    for seed in sorted({result.seed for result in declared if result.seed is not None}):
        same = [result for result in declared if result.seed == seed]
        for defense, run in representatives(same, rows).items():
            runs.setdefault(defense, {})[seed] = run
    return runs


def of_seeds(
    results: Sequence[Result], runs: dict[int, str], row: Row, protocol: str
) -> dict[int, Result]:
    """The results for a row's cell by seed, of those seeds that have one."""
    found = {seed: find(results, run, row, protocol) for seed, run in runs.items()}
    return {seed: result for seed, result in found.items() if result is not None}


def rates_over_seeds(
    results: Sequence[Result], runs: dict[int, str], row: Row
) -> dict[str, list[float]]:
    """The success rates of several seeds by protocol, tracked."""
    return {
        protocol: [
            result.success_rate
            for result in of_seeds(results, runs, row, protocol).values()
            if result.success_rate is not None
        ]
        for protocol in ("foolbox1", "strict")
    }


def seeds_table(results: Sequence[Result], rows: Sequence[Row]) -> Table:
    """Mean and spread over seeds: a row for each attack, defence and protocol of several seeds."""
    lines = []
    for row in rows:
        for defense, runs in seed_runs(results, rows).items():
            seen = []
            for protocol in ("foolbox1", "strict"):
                found = of_seeds(results, runs, row, protocol)
                # What is the same under both protocols is one row.
                folders = {result.folder for result in found.values()}
                if len(found) > 1 and folders not in seen:
                    seen.append(folders)
                    lines.append([row.title, defense, *_cells(results, found, protocol)])
    return Table("seeds", "Mean and spread over seeds", _HEADER, lines)


def _cells(results: Sequence[Result], found: dict[int, Result], protocol: str) -> list[str]:
    cells = list(found.values())
    both = all(result.protocol == "both" for result in cells)
    measures = [
        text
        for _, key, form in _MEASURES
        for text in _spread([v for v in (getattr(r, key) for r in cells) if v is not None], form)
    ]
    return [
        "both" if both else protocol,
        ", ".join(map(str, found)),
        *measures,
        " / ".join(dict.fromkeys(images_of(result) for result in cells)),
    ]


def _spread(values: Sequence[float], form: Callable[[float | None], str]) -> list[str]:
    """Mean, range and standard deviation (of the sample: n - 1), as text."""
    if not values:
        return ["-", "-", "-"]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    limits = f"{form(min(values))} .. {form(max(values))}"
    return [form(statistics.fmean(values)), limits, form(deviation)]
