"""Tables from the files under outputs/: the paper's figures with ours beside them."""

import csv
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from funn.errors import UserError
from funn.files import read_json, replace_file
from funn.paper import ITERATIONS, TABLE_1, Reported, Row
from funn.schema import ReportConfig
from funn.stage_folder import RESULT

_HEADER = (
    "attack", "encoder", "paper: success", "paper: noise", "protocol", "success tracked",
    "success verified", "noise tracked", "noise verified", "rounding", "attacked", "images",
    "clean accuracy", "run",
)  # fmt: skip
_PROTOCOLS = ("foolbox1", "strict")
_LEGEND = (
    "Success is the share of the images that the classifier gets right (the attacked ones) that "
    "the attack saw misclassified (tracked), and that a float64 copy of the classifier still "
    "misclassifies in the image that was returned (verified). Noise is the mean L2 norm over "
    "those successes (Eq. 9). Rounding is the share of tracked successes whose margin is below "
    "1e-4. Under foolbox1 attacks follow the paper's tool; under strict epsilon is fixed and "
    "DeepFool follows its authors."
)


class Table(NamedTuple):
    """A table of text, with the names of its columns."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def report(config: ReportConfig) -> Path:
    """Write the tables as Markdown, CSV and one HTML page, and print them.

    Returns:
        The page, `outputs/report/index.html`.

    Raises:
        UserError: if nothing was evaluated yet.
    """
    root = Path(config.output_dir)
    results = collect(root)
    if not results:
        raise UserError(
            f"nothing to report under {root / 'eval'}: "
            "run `python src/evaluate.py run=outputs/latest/funn suite=table1` first"
        )
    tables = [overview(results), table_1(results)]
    folder = root / "report"
    for table in tables:
        replace_file(folder / f"{table.name}.md", markdown(table).encode())
        replace_file(folder / f"{table.name}.csv", comma_separated(table).encode())
    replace_file(folder / "index.html", page(tables, origin(results)).encode())
    replace_file(folder / "origin.txt", f"{origin(results)}\n".encode())
    for table in tables:
        print(f"{table.title}\n\n{markdown(table)}")
    print(origin(results))
    return folder / "index.html"


def collect(root: Path) -> list[dict[str, Any]]:
    """Return the result of every finished attack under `root`/eval, oldest first."""
    paths = sorted((root / "eval").glob(f"*/*/{RESULT}"), key=lambda path: path.stat().st_mtime)
    results = []
    for path in paths:
        content, status = read_json(path), read_json(path.parent / "status.json")
        if content is not None and status is not None and status.get("state") == "finished":
            results.append({**content, "folder": str(path.parent.relative_to(root))})
    return results


def table_1(results: Sequence[dict[str, Any]]) -> Table:
    """Table 1 in full: a row for each attack, encoder and protocol."""
    rows = [
        [row.title, encoder, *_cells(reported, result)]
        for row in (*TABLE_1, *ITERATIONS)
        for encoder, reported in row.cells.items()
        for protocol in _PROTOCOLS
        if (result := find(results, row, encoder, protocol)) is not None
    ]
    return Table("table1", "Table 1, the paper's figures and ours", _HEADER, rows)


def overview(results: Sequence[dict[str, Any]]) -> Table:
    """Table 1 in short: success (tracked, verified) and noise of each protocol in one cell."""
    rows = []
    for row in (*TABLE_1, *ITERATIONS):
        for encoder, reported in row.cells.items():
            found = [find(results, row, encoder, protocol) for protocol in _PROTOCOLS]
            paper = f"{percent(reported.success_rate)} / {noise(reported.noise_level)}"
            rows.append([row.title, encoder, paper, *(_short(result) for result in found)])
    header = ("attack", "encoder", "paper", *_PROTOCOLS)
    return Table("overview", "Success (verified) / noise level", header, rows)


def find(
    results: Sequence[dict[str, Any]], row: Row, encoder: str, protocol: str
) -> dict[str, Any] | None:
    """The result for a cell: of several the one of the most images, and of those the newest."""
    cells = []
    for age, result in enumerate(results):
        if (result["attack"], result["defense"]) != (row.attack, encoder):
            continue
        if result["protocol"] not in (protocol, "both"):
            continue
        cell = at_steps(result, row.steps)
        if cell is not None:
            cells.append((cell["images"], age, cell))
    return max(cells)[2] if cells else None


def at_steps(result: dict[str, Any], steps: int | None) -> dict[str, Any] | None:
    """The figures after so many iterations (None: as it was run), if the result has them."""
    if steps in (None, result["settings"].get("steps")):
        return result
    shorter = result.get("iterations", {}).get(str(steps))
    return None if shorter is None else {**result, **shorter}


def _short(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    verified = percent(result["success_rate_verified"])
    return f"{percent(result['success_rate'])} ({verified}) / {noise(result['noise_level'])}"


def _cells(reported: Reported, result: dict[str, Any]) -> list[str]:
    return [
        percent(reported.success_rate),
        noise(reported.noise_level),
        result["protocol"],
        percent(result["success_rate"]),
        percent(result["success_rate_verified"]),
        noise(result["noise_level"]),
        noise(result["noise_level_verified"]),
        percent(result["rounding_share"]),
        str(result["attacked"]),
        str(result["images"]),
        percent(result["clean_accuracy"]),
        result["folder"],
    ]


def percent(rate: float | None) -> str:
    """A rate in percent with two decimals; a dash where there is none."""
    return "-" if rate is None else f"{100 * rate:.2f} %"


def noise(level: float | None) -> str:
    """A noise level with four decimals; a dash where there is none."""
    return "-" if level is None else f"{level:.4f}"


def origin(results: Sequence[dict[str, Any]]) -> str:
    """One line that says when, and from which revisions and seeds, the results come."""
    revisions = sorted({str(result["revision"]) for result in results})
    seeds = sorted({int(result["seed"]) for result in results})
    date = max(str(result["date"]) for result in results)
    return f"{date}, revision {', '.join(revisions)}, seed {', '.join(map(str, seeds))}."


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comma_separated(table: Table) -> str:
    """A table as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([table.header, *table.rows])
    return stream.getvalue()


def page(tables: Sequence[Table], source: str) -> str:
    """All tables on one self-contained HTML page."""
    body = "".join(f"<h2>{html.escape(table.title)}</h2>{_html(table)}" for table in tables)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>FUNN: the paper's tables and ours</title>"
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;"
        "margin:2rem auto;max-width:90rem;padding:0 1rem}div{overflow-x:auto}"
        "table{border-collapse:collapse;font-size:.85rem}th,td{padding:.3rem .6rem;"
        "border-bottom:1px solid #8886;text-align:right;white-space:nowrap}"
        "th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}</style>"
        f"<h1>FUNN, reproduced</h1><p>{html.escape(source)}</p>{body}"
        f"<p>{html.escape(_LEGEND)}</p></html>\n"
    )


def _html(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    rows = "".join(line(row, "td") for row in table.rows)
    return f"<div><table>{line(table.header, 'th')}{rows}</table></div>"
