"""Where the report's numbers come from: revisions, seeds, packages, machines and time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from funn.artifacts.files import read_json
from funn.artifacts.layout import RESULT, checkpoint_of
from funn.report.inputs.results import Result
from funn.report.tables.table import Table

_PACKAGES = ("torch", "lightning", "torchattacks")
_SHORT = 7  # of a revision


def origin(results: Sequence[Result], command: str) -> str:
    """One line that says when, and from which revisions and seeds, the results come.

    Args:
        results: those that are shown first.
        command: what fills the tables, to say where there is nothing.
    """
    if not results:
        return f"Nothing was attacked yet: `{command}` fills the tables."
    revisions = sorted({str(result.revision) for result in results})
    seeds = sorted({str(result.seed) for result in results if result.seed is not None})
    date = max(str(result.date) for result in results)
    return f"{date}, revision {', '.join(revisions)}, seed {', '.join(seeds) or '-'}."


def revision(content: Mapping[str, Any]) -> str:
    """The revision that a result's content is of, as short as git shows it; "-": not recorded."""
    return short(content.get("revision"))


def short(revision: str | None) -> str:
    """A revision as short as git shows it; "-": not recorded."""
    return (revision or "-")[:_SHORT]


def origins_table(root: Path, results: Sequence[Result]) -> Table:
    """A row for each classifier that was attacked: how it was trained, and on what machine.

    Training is the wall time of all its stages, one that several runs share counted in each;
    attacks are the wall time of all of its results, whichever processes ran beside them.
    """
    rows = []
    for run in dict.fromkeys(result.run for result in results):
        mine = [result for result in results if result.run == run]
        parents = mine[-1].parents
        machines = {_machine(result) for result in mine}
        revisions = {short(result.revision) for result in mine}
        rows.append(
            [
                mine[-1].encoder,
                "-" if mine[-1].seed is None else str(mine[-1].seed),
                minutes(trained_seconds(root, [parent["path"] for parent in parents])),
                minutes(sum(result.seconds for result in mine)),
                ", ".join(sorted(revisions)),
                "; ".join(sorted(machines)),
                str(Path("train", parents[0]["path"]).parent) if parents else "",
            ]
        )
    header = ("encoder", "seed", "training, minutes", "attacks, minutes", "revision", "machine",
              "run")  # fmt: skip
    return Table("origins", "Where each encoder comes from", header, rows)


def with_data(table: Table, data: Mapping[str, str]) -> Table:
    """The table with a column that says of each encoder on which data set it was attacked.

    Args:
        table: one with a column "encoder", or it stays as it is.
        data: the data set by the encoder.
    """
    if "encoder" not in table.header:
        return table
    at = table.header.index("encoder")
    rows = [[*row[: at + 1], data.get(row[at], "-"), *row[at + 1 :]] for row in table.rows]
    marks, links = (
        {(row, column + (column > at)): text for (row, column), text in places.items()}
        for places in (table.marks, table.links)
    )
    header = (*table.header[: at + 1], "data", *table.header[at + 1 :])
    return table._replace(header=header, rows=rows, marks=marks, links=links)


def trained_seconds(root: Path, checkpoints: Sequence[str]) -> float | None:
    """The wall time of the stages behind some checkpoints, relative to `root`/train."""
    stages = [read_json(checkpoint_of(root, path).parent / RESULT) for path in checkpoints]
    seconds = [stage["wall_seconds"] for stage in stages if stage is not None]
    return sum(seconds) if seconds else None


def minutes(seconds: float | None) -> str:
    """A number of minutes."""
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def _machine(result: Result) -> str:
    machine, packages = result.machine, result.packages
    versions = ", ".join(f"{name} {packages[name]}" for name in _PACKAGES if name in packages)
    return (
        f"{machine.get('processors', '?')} processors, {machine.get('threads', '?')} threads, "
        f"Python {result.python or '?'}, {versions}"
    )
