"""Every table of the page, in its order."""

from collections.abc import Sequence
from pathlib import Path

from funn.artifacts.layout import FEATURES, MASKING, ROBUST
from funn.report.inputs.results import Result, studies
from funn.report.tables.distances import distances_table
from funn.report.tables.headline import headline
from funn.report.tables.origins import origins_table, with_data
from funn.report.tables.robust import features_table, masking_table, robust_table
from funn.report.tables.seeds import seeds_table
from funn.report.tables.table import Table
from funn.report.tables.table1 import ROWS, others, overview, table_1
from funn.report.tables.table2 import table_2, threats


def tables_of(root: Path, results: Sequence[Result]) -> tuple[list[Table], list[Result]]:
    """The page's tables, those without rows left out, and the results that the first shows."""
    short, chosen = overview(results)
    full, shown = table_1(results)
    every_threat, known = table_2(results)
    rest = others(results, [*shown, *known])
    strong = [headline(root, results), robust_table(root), distances_table(root),
              masking_table(root), features_table(root)]  # fmt: skip
    seeds, origins = seeds_table(results, ROWS), origins_table(root, results)
    tables = [short, *strong, seeds, threats(results), full, every_threat, rest, origins]
    sets = {result.encoder: result.data["name"] for result in results}
    for kind in (ROBUST, MASKING, FEATURES):
        found = studies(root, kind)
        sets |= {encoder: content["data"]["name"] for encoder, content in found.items()}
    if len(set(sets.values())) > 1:
        tables = [with_data(table, sets) for table in tables]
    return [table for table in tables if table.rows], chosen
