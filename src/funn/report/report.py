"""Tables, plots and one HTML page from the files under outputs/."""

from pathlib import Path

from funn.artifacts.files import replace_file
from funn.artifacts.layout import page_path, report_folder
from funn.config.schema import ReportConfig
from funn.errors import UserError
from funn.report.figures.contents import plots_of
from funn.report.figures.drawings import drawings
from funn.report.figures.pictures import pictures
from funn.report.figures.sweeps import sweep_pictures
from funn.report.findings.claims import findings
from funn.report.inputs.paper import CHOICES
from funn.report.inputs.results import collect, representatives
from funn.report.page import page
from funn.report.tables.contents import tables_of
from funn.report.tables.origins import origin
from funn.report.tables.table import comma_separated, markdown
from funn.report.tables.table1 import ROWS

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
    tables, chosen = tables_of(root, results)
    runs = representatives(results, ROWS)
    plots = plots_of(root, results, runs)
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
    own = next((result for result in results if result.run == runs.get("funn")), None)
    figures = {} if own is None else drawings(root, own)
    text = page(tables, said, plots, figures, seen, CHOICES, _LEGEND, source)
    replace_file(page_path(root), text.encode())
    replace_file(folder / "origin.txt", f"{source}\n".encode())
    for table in tables:
        print(f"{table.title}\n\n{markdown(table)}")
    print(source)
    return page_path(root)
