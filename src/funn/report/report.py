"""Tables from the files under outputs/: the paper's figures with ours beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from funn.artifacts.files import replace_file
from funn.artifacts.layout import (
    EXAMPLES,
    FEATURES,
    IMAGES,
    MASKING,
    ROBUST,
    page_path,
    report_folder,
)
from funn.config.schema import ReportConfig
from funn.config.title import titled
from funn.errors import UserError
from funn.evaluation.records.metrics import noise, percent
from funn.report.figures.curves import against_iterations, paths
from funn.report.figures.drawings import drawings
from funn.report.figures.sweeps import sweep_pictures, sweep_plots
from funn.report.figures.zero_gradients import gradient_histogram
from funn.report.findings.claims import findings
from funn.report.findings.disagreement import disagreements
from funn.report.inputs.paper import CHOICES, ITERATIONS, TABLE_1, Reported
from funn.report.inputs.results import (
    Result,
    collect,
    each_protocol,
    find,
    images_of,
    representatives,
    studies,
)
from funn.report.inputs.stages import latest_stages, reported_stages
from funn.report.page import page
from funn.report.tables.headline import headline
from funn.report.tables.origins import origin, origins_table, with_data
from funn.report.tables.robust import features_table, masking_table, robust_curves, robust_table
from funn.report.tables.seeds import rates_over_seeds, seed_runs, seeds_table
from funn.report.tables.table import Table, comma_separated, markdown
from funn.report.tables.table2 import table_2, threats

_ROWS = (*TABLE_1, *ITERATIONS)
_HEADER = (
    "attack", "encoder", "paper: success", "paper: noise", "protocol", "success tracked",
    "success verified", "noise tracked", "noise verified", "rounding", "attacked", "images",
    "clean accuracy", "run",
)  # fmt: skip
_PROTOCOLS = ("foolbox1", "strict")
_NEAREST = "ddn"  # the attack of suite=strong whose pictures show the least that fools
_EVALUATE = "python src/evaluate.py run=outputs/latest/funn suite=table1"
_LEGEND = (
    "Success is the share of the images that the classifier gets right (the attacked ones) that "
    "the attack saw misclassified (tracked), and that a float64 copy of the classifier still "
    "misclassifies in the image that was returned (verified). Noise is the mean L2 norm over "
    "those successes (Eq. 9). Rounding is the share of tracked successes whose margin is below "
    "1e-4. Under foolbox1 attacks follow the paper's tool; under strict epsilon is fixed and "
    "DeepFool follows its authors. An oblivious attacker attacks another classifier: a tracked "
    "success fools that one, a verified success fools the defended one too, an undetected success "
    "is moreover not rejected by a detector."
)


def report(config: ReportConfig) -> Path:
    """Write the tables as Markdown, CSV and one HTML page, and print them.

    Returns:
        The page, `outputs/report/index.html`.

    Raises:
        UserError: if nothing was evaluated yet, and nothing trained that has a plot.
    """
    root = Path(config.output_dir)
    results = collect(root)
    tables, chosen = _tables(root, results)
    runs = representatives(results, _ROWS)
    plots = _plots(root, results, runs)
    if not results and not plots:
        raise UserError(f"nothing to report under {root / 'eval'}: run `{_EVALUATE}` first")
    source = origin(chosen or results, _EVALUATE)
    folder = report_folder(root)
    for table in tables:
        replace_file(folder / f"{table.name}.md", markdown(table).encode())
        replace_file(folder / f"{table.name}.csv", comma_separated(table).encode())
    for name, plot in plots.items():
        replace_file(folder / f"{name}.json", str(plot.to_json()).encode())
    said, seen = findings(results, runs), pictures(root, results, runs) | sweep_pictures(root)
    own = next((result for result in results if result["run"] == runs.get("funn")), None)
    figures = {} if own is None else drawings(root, own)
    text = page(tables, said, plots, figures, seen, CHOICES, _LEGEND, source)
    replace_file(page_path(root), text.encode())
    replace_file(folder / "origin.txt", f"{source}\n".encode())
    for table in tables:
        print(f"{table.title}\n\n{markdown(table)}")
    print(source)
    return page_path(root)


def _tables(root: Path, results: Sequence[Result]) -> tuple[list[Table], list[Result]]:
    """The page's tables, those without rows left out, and the results that the first shows."""
    short, chosen = overview(results)
    full, shown = table_1(results)
    every_threat, known = table_2(results)
    rest = others(results, [*shown, *known])
    strong = [headline(root, results), robust_table(root), masking_table(root),
              features_table(root)]  # fmt: skip
    seeds, origins = seeds_table(results, _ROWS), origins_table(root, results)
    tables = [short, *strong, seeds, threats(results), full, every_threat, rest, origins]
    sets = {result["encoder"]: result["data"]["name"] for result in results}
    for kind in (ROBUST, MASKING, FEATURES):
        found = studies(root, kind)
        sets |= {encoder: content["data"]["name"] for encoder, content in found.items()}
    if len(set(sets.values())) > 1:
        tables = [with_data(table, sets) for table in tables]
    return [table for table in tables if table.rows], chosen


def _plots(root: Path, results: Sequence[Result], runs: Mapping[str, str]) -> dict[str, go.Figure]:
    """The page's plots by the names of their places, those left out that have nothing to show."""
    games = reported_stages(root, results, runs, "adversarial")
    papers = {name: run for name, run in runs.items() if name in TABLE_1[0].cells}
    plots = {
        "iterations-l2": against_iterations(results, runs, "deepfool_l2"),
        "iterations-linf": against_iterations(results, runs, "deepfool_linf"),
        "gradients": gradient_histogram(root, results, papers or runs),
        "figure2": paths(games or latest_stages(root, "adversarial")),
        **robust_curves(root),
        **sweep_plots(root, results),
    }
    return {name: plot for name, plot in plots.items() if plot is not None}


def pictures(root: Path, results: Sequence[Result], runs: Mapping[str, str]) -> dict[str, bytes]:
    """The game's first, middle and last images, and what attacks make of test images."""
    found = {}
    for name, folder in reported_stages(root, results, runs, "adversarial").items():
        paths = sorted((folder / IMAGES).glob("*.png"))
        for path in dict.fromkeys(paths[place] for place in (0, len(paths) // 2, -1) if paths):
            title = f"{name}, {path.stem}: clean x, attacked A(x), restored D(A(x)), D(x)"
            found[title] = path.read_bytes()
    for result in results:
        path = root / result["folder"] / EXAMPLES
        chosen = result["run"] in runs.values() and result["attack"] == "deepfool_l2"
        if chosen and result["protocol"] == "strict" and path.exists():
            title = f"{result['encoder']}, deepfool_l2, strict: clean, adversarial, difference"
            found[title] = path.read_bytes()
        # Of all, to compare: how visible is what fools each classifier?
        if result["attack"] == _NEAREST and path.exists():
            title = f"{result['encoder']}, nearest in L2: clean, adversarial, difference"
            found[title] = path.read_bytes()
    return found


def overview(results: Sequence[Result]) -> tuple[Table, list[Result]]:
    """Table 1 in short: success (tracked, verified) and noise of each protocol in one cell.

    Returns:
        The table, and the results that it shows.
    """
    runs = representatives(results, _ROWS)
    labels = {result["run"]: result["encoder"] for result in results}
    seeds = seed_runs(results, _ROWS)
    header = ("attack", "encoder", "paper", *_PROTOCOLS, "images")
    marks: dict[tuple[int, int], str] = {}
    links: dict[tuple[int, int], str] = {}
    rows: list[list[str]] = []
    shown = []
    for row in _ROWS:
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
                    links[len(rows), header.index(protocol)] = result["folder"]
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
    runs = {result["run"]: result["defense"] for result in results}
    rows, shown = [], []
    for row in _ROWS:
        for run in sorted(runs, key=lambda run: (*order, runs[run]).index(runs[run])):
            for result in each_protocol(results, run, row):
                reported = row.cells.get(result["defense"], Reported(None, None))
                rows.append([row.title, *_cells(reported, result)])
                shown.append(result)
    return Table("table1", "Table 1, the paper's figures and ours", _HEADER, rows), shown


def others(results: Sequence[Result], shown: Sequence[Result]) -> Table:
    """Every result that is in no row of the paper's table: other attacks, other settings."""
    folders = {result["folder"] for result in shown}
    rows = [
        [titled(result["attack"], result["attack_changed"]), *_cells(Reported(None, None), result)]
        for result in results
        if result["folder"] not in folders
    ]
    return Table("others", "Other attacks and settings", _HEADER, rows)


def _short(result: Result | None) -> str:
    if result is None:
        return "-"
    verified = percent(result["success_rate_verified"])
    return f"{percent(result['success_rate'])} ({verified}) / {noise(result['noise_level'])}"


def _cells(reported: Reported, result: Result) -> list[str]:
    return [
        result["encoder"],
        percent(reported.success_rate),
        noise(reported.noise_level),
        result["protocol"],
        percent(result["success_rate"]),
        percent(result["success_rate_verified"]),
        noise(result["noise_level"]),
        noise(result["noise_level_verified"]),
        percent(result["rounding_share"]),
        str(result["attacked"]),
        images_of(result),
        percent(result["clean_accuracy"]),
        result["folder"],
    ]
