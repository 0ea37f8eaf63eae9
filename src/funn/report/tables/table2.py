"""Each defence where the attacker knows of it, and where it does not (Table 2, done properly)."""

from collections.abc import Sequence

from funn.evaluation.records.metrics import noise, percent
from funn.report.inputs.paper import STRONGER, TABLE_2, Reported
from funn.report.inputs.results import Result, each_protocol, find, images_of, representatives
from funn.report.tables.table import Table

_ROWS = (*TABLE_2, *STRONGER)
_FIRST = 4  # column of an attack in the short table
_THREAT_HEADER = (
    "attack", "encoder", "the attacker knows", "paper", "protocol", "success undetected",
    "success verified", "success tracked", "noise tracked", "attacked", "images", "clean accuracy",
    "clean rejected", "run",
)  # fmt: skip


def threats(results: Sequence[Result]) -> Table:
    """Table 2 in short: a row for each defence and threat, a column for each attack.

    A cell is the share of the attacked images that are misclassified and not rejected, under
    `strict`; in brackets those misclassified, where a detector makes a difference.
    """
    rows: list[list[str]] = []
    links: dict[tuple[int, int], str] = {}
    for defense, run in representatives(results, _ROWS).items():
        quoted = [row.cells.get(defense, Reported(None, None)).success_rate for row in _ROWS]
        if any(quoted):
            rows.append([defense, "the paper's figures", "-", "-", *map(percent, quoted), "-"])
        for source in _sources(results, run):
            found = [find(results, run, row, "strict", source) for row in _ROWS]
            there = {place: result for place, result in enumerate(found) if result is not None}
            if there:
                links |= {(len(rows), _FIRST + at): each.folder for at, each in there.items()}
                rows.append(_threat(run, source, found, list(there.values())))
    header = ("encoder", "the attacker knows", "clean accuracy", "clean rejected",
              *(row.title for row in _ROWS), "images")  # fmt: skip
    title = "Every defence, strict: misclassified and not rejected (misclassified)"
    return Table("threats", title, header, rows, links=links)


def _threat(
    run: str, source: str | None, found: Sequence[Result | None], there: Sequence[Result]
) -> list[str]:
    widest = max(there, key=lambda result: result.images)
    return [
        widest.encoder,
        _knowledge(source),
        percent(widest.clean_accuracy),
        percent(widest.clean_rejected),
        *map(_undetected, found),
        " / ".join(dict.fromkeys(images_of(result) for result in there)),
    ]


def table_2(results: Sequence[Result]) -> tuple[Table, list[Result]]:
    """Table 2 in full: each defence where the attacker knows of it, and where it does not.

    Returns:
        The table, and the results that it shows.
    """
    runs = representatives(results, _ROWS)
    rows, shown = [], []
    for row in _ROWS:
        for defense, run in runs.items():
            for source in _sources(results, run):
                for result in each_protocol(results, run, row, source):
                    reported = row.cells.get(defense, Reported(None, None))
                    rows.append([row.title, *_threat_cells(reported, result)])
                    shown.append(result)
    return Table("table2", "Table 2, by what the attacker knows", _THREAT_HEADER, rows), shown


def _sources(results: Sequence[Result], run: str) -> list[str | None]:
    """The runs whose classifiers were attacked for this one, and None if it was itself."""
    found = dict.fromkeys(result.source for result in results if result.run == run)
    return sorted(found, key=lambda source: (source is None, source or ""))


def _knowledge(source: str | None) -> str:
    if source is None:
        return "white-box"
    own = source.endswith("/bare")
    return "oblivious, of the bare classifier" if own else f"oblivious, of {source}"


def _undetected(result: Result | None) -> str:
    if result is None:
        return "-"
    undetected, verified = result.success_rate_undetected, result.success_rate_verified
    if undetected == verified:
        return percent(undetected)
    return f"{percent(undetected)} ({percent(verified)})"


def _threat_cells(reported: Reported, result: Result) -> list[str]:
    return [
        result.encoder,
        _knowledge(result.source),
        percent(reported.success_rate),
        result.protocol,
        percent(result.success_rate_undetected),
        percent(result.success_rate_verified),
        percent(result.success_rate),
        noise(result.noise_level),
        str(result.attacked),
        images_of(result),
        percent(result.clean_accuracy),
        percent(result.clean_rejected),
        result.folder,
    ]
