"""A table as text, and its two files: Markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from funn.report.findings.disagreement import footnotes, symbols


class Table(NamedTuple):
    """A table of text, with the names of its columns.

    Attributes:
        name: of its CSV and Markdown files.
        title: above it.
        header: names of the columns.
        rows: text; a cell of the column "run" is a folder under outputs/.
        marks: the cells, by row and column, that disagree with the paper, with the reason or "".
        links: the folder under outputs/ of the result that a cell, by row and column, shows.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Mapping[tuple[int, int], str] = MappingProxyType({})
    links: Mapping[tuple[int, int], str] = MappingProxyType({})

    def link(self, row: int, column: int) -> str | None:
        """The folder under outputs/ whose result a cell shows; None if it shows none."""
        if self.header[column] == "run":
            return self.rows[row][column] or None
        return self.links.get((row, column))


def markdown(table: Table) -> str:
    """A table as Markdown."""
    signs = symbols(table.marks)
    rows = [
        [f"{text} {signs.get((at, column), '')}".strip() for column, text in enumerate(row)]
        for at, row in enumerate(table.rows)
    ]
    lines = [table.header, ["---"] * len(table.header), *rows]
    notes = "".join(f"\n{line}\n" for line in footnotes(table.marks))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + notes


def comma_separated(table: Table) -> str:
    """A table as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([table.header, *table.rows])
    return stream.getvalue()
