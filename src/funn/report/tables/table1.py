"""Table 1 of the paper with our figures beside it, in short and in full, and what is in no row."""

from collections.abc import Sequence

from funn.config.title import titled
from funn.evaluation.records.metrics import noise, percent
from funn.report.findings.disagreement import disagreements
from funn.report.inputs.paper import ITERATIONS, TABLE_1, Reported
from funn.report.inputs.results import (
    Result,
    each_protocol,
    find,
    images_of,
    representatives,
)
from funn.report.tables.seeds import rates_over_seeds, seed_runs
from funn.report.tables.table import Table

ROWS = (*TABLE_1, *ITERATIONS)
_HEADER = (
    "attack", "encoder", "paper: success", "paper: noise", "protocol", "success tracked",
    "success verified", "noise tracked", "noise verified", "rounding", "attacked", "images",
    "clean accuracy", "run",
)  # fmt: skip
_PROTOCOLS = ("foolbox1", "strict")


def overview(results: Sequence[Result]) -> tuple[Table, list[Result]]:
    """Table 1 in short: success (tracked, verified) and noise of each protocol in one cell.

    Returns:
        The table, and the results that it shows.
    """
    runs = representatives(results, ROWS)
    labels = {result.run: result.encoder for result in results}
    seeds = seed_runs(results, ROWS)
    header = ("attack", "encoder", "paper", *_PROTOCOLS, "images")
    marks: dict[tuple[int, int], str] = {}
    links: dict[tuple[int, int], str] = {}
    rows: list[list[str]] = []
    shown = []
    for row in ROWS:
        for encoder, reported in row.cells.items():
            run = runs.get(encoder, "")
            found = [find(results, run, row, protocol) for protocol in _PROTOCOLS]
            there = [result for result in found if result is not None]
            images = " / ".join(dict.fromkeys(images_of(result) for result in there))
            paper = f"{percent(reported.success_rate)} / {noise(reported.noise_level)}"
            label = labels.get(run, encoder)
            over_seeds = rates_over_seeds(results, seeds.get(encoder, {}), row)
            ours = dict(zip(_PROTOCOLS, found, strict=True))
            for protocol, reason in disagreements(reported.success_rate, ours, over_seeds).items():
                marks[len(rows), header.index(protocol)] = reason
            for protocol, result in ours.items():
                if result is not None:
                    links[len(rows), header.index(protocol)] = result.folder
            rows.append([row.title, label, paper, *map(_short, found), images or "-"])
            shown += there
    title = "Success (verified) / noise level"
    return Table("overview", title, header, rows, marks, links), shown


def table_1(results: Sequence[Result]) -> tuple[Table, list[Result]]:
    """Table 1 in full: a row for each attack, run and protocol.

    Returns:
        The table, and the results that it shows.
    """
    order = list(TABLE_1[0].cells)
    runs = {result.run: result.defense for result in results}
    rows, shown = [], []
    for row in ROWS:
        for run in sorted(runs, key=lambda run: (*order, runs[run]).index(runs[run])):
            for result in each_protocol(results, run, row):
                reported = row.cells.get(result.defense, Reported(None, None))
                rows.append([row.title, *_cells(reported, result)])
                shown.append(result)
    return Table("table1", "Table 1, the paper's figures and ours", _HEADER, rows), shown


def others(results: Sequence[Result], shown: Sequence[Result]) -> Table:
    """Every result that is in no row of the paper's table: other attacks, other settings."""
    folders = {result.folder for result in shown}
    rows = [
        [titled(result.attack, result.attack_changed), *_cells(Reported(None, None), result)]
        for result in results
        if result.folder not in folders
    ]
    return Table("others", "Other attacks and settings", _HEADER, rows)


def _short(result: Result | None) -> str:
    if result is None:
        return "-"
    verified = percent(result.success_rate_verified)
    return f"{percent(result.success_rate)} ({verified}) / {noise(result.noise_level)}"


def _cells(reported: Reported, result: Result) -> list[str]:
    return [
        result.encoder,
        percent(reported.success_rate),
        noise(reported.noise_level),
        result.protocol,
        percent(result.success_rate),
        percent(result.success_rate_verified),
        noise(result.noise_level),
        noise(result.noise_level_verified),
        percent(result.rounding_share),
        str(result.attacked),
        images_of(result),
        percent(result.clean_accuracy),
        result.folder,
    ]
