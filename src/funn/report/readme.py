"""`make reference`: keep tables and plots in outputs/reference, and fill both READMEs from them."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from funn.artifacts.files import replace_file
from funn.config.cli import run
from funn.config.compose import ROOT
from funn.errors import UserError
from funn.report.figures import readme_curves

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WIDTH = 900
# In the reference's README, by a comment before and after: what the report calls them, and whether
# the report's one line on their origin goes with them (the others name a revision in each row).
_TABLES = {
    "headline": False, "robust": False, "masking": False, "features": False, "overview": True,
    "threats": True,
}  # fmt: skip
_PICTURE = r"!\[{}\]\({}\.png\)"
# The curves behind the README's picture come from this plot, and are kept under that name.
_CURVES, _KEPT_CURVES = "robust-l2", "robust-accuracy"
_BY_HAND = ("README", "origin", _KEPT_CURVES)

# The README's few rows of the headline: what the report calls an encoder, and what a reader does.
DEFENSES = {
    "funn": "FUNN as published (`funn`)",
    "classic": "plain auto-encoder, the baseline (`classic`)",
    "funn (head=margin)": "FUNN, margin head (`head=margin`)",
    "denoising": "Gaussian noise in place of FUNN's attacker (`denoising`)",
    "classic (head=margin)": "plain auto-encoder, margin head",
    "funn_pgd": "FUNN with a PGD attacker for each image (`funn_pgd`)",
    "funn_pgd (head=margin)": "the same, margin head",
    readme_curves.SUPERVISED: "supervised adversarial training, L2 2.0 (by `make robust`)",
}
_COLUMNS = {
    "encoder": "features and head",
    "clean accuracy": "clean accuracy",
    "robust accuracy, L2 1.5": "robust accuracy, L2 1.5",
    "robust accuracy, Linf 0.1": "robust accuracy, Linf 0.1",
    "images": "test images",
    "training, minutes": "training, minutes",
}


def main(names: Sequence[str] = ()) -> None:
    """Keep the tables of outputs/report, and PNGs of its plots and the bench's.

    outputs/reference/README.md shows them all; README.md shows a part of the headline. What the
    bench measured is kept as it is, as `bench-....json`.

    Args:
        names: of the tables and plots to renew, and the others stay as they are; none renews
            everything, and removes what the report no longer has.

    Raises:
        UserError: for a name that the report does not have.
    """
    reference = ROOT / "outputs" / "reference"
    there = _there()
    for name in names:
        if name not in there:
            raise UserError(
                f"{ROOT / 'outputs' / 'report'} has no {name}: give some of "
                f"{' '.join(sorted(there))}"
            )
    if not names:
        shutil.copyfile(ROOT / "outputs" / "report" / "origin.txt", reference / "origin.txt")
    titles = {}
    for name in sorted(names or there):
        title = _keep(there[name], name, reference)
        if title is not None:
            titles[name] = title
    for path in reference.iterdir():
        if not names and path.stem not in (*there, *_BY_HAND):
            path.unlink()
    write_readmes(titles)
    print(reference)


def _there() -> dict[str, Path]:
    """What the report and the bench have to keep, by the name it is kept under."""
    report, bench = ROOT / "outputs" / "report", ROOT / "outputs" / "bench"
    there = {path.stem: path for end in ("md", "json") for path in report.glob(f"*.{end}")}
    there |= {path.stem: path for path in (bench / "plots").glob("*.json")}
    return there | {f"bench-{path.stem}": path for path in bench.glob("*.json")}


def _keep(source: Path, name: str, reference: Path) -> str | None:
    """Keep one table, plot or measurement; of a plot, return its title."""
    if source.suffix == ".md":
        shutil.copyfile(source, reference / f"{name}.md")
        shutil.copyfile(source.with_suffix(".csv"), reference / f"{name}.csv")
        return None
    if name.startswith("bench-"):
        shutil.copyfile(source, reference / f"{name}.json")
        return None
    plot = plotly.io.from_json(source.read_text())
    if name == _CURVES:
        kept = readme_curves.write_csv(readme_curves.sample(plot))
        replace_file(reference / f"{_KEPT_CURVES}.csv", kept.encode())
    draw(plot, reference / f"{name}.png")
    return str(plot.layout.title.text)


def write_readmes(titles: dict[str, str] | None = None) -> None:
    """Fill the blocks of both READMEs from what is kept under outputs/reference alone.

    Args:
        titles: of the plots that are new; those of the others stand in the README already.
    """
    reference = ROOT / "outputs" / "reference"
    page = (reference / "README.md").read_text()
    old = {name: title for title, name in re.findall(_PICTURE.format("(.*)", "(.*)"), page)}
    titles = old | (titles or {})
    origin = (reference / "origin.txt").read_text()
    for name, dated in _TABLES.items():
        table = reference / f"{name}.md"
        text = table.read_text() if table.exists() else "Not in this report.\n"
        page = between(page, name, f"{text}\n{origin}" if dated else text)
    pictures = [
        f"![{titles[name]}]({name}.png)\n"
        for name in sorted(titles)
        if (reference / f"{name}.png").exists()
    ]
    page = between(page, "plots", "".join(pictures))
    replace_file(reference / "README.md", page.encode())
    curves = reference / f"{_KEPT_CURVES}.csv"
    if curves.exists():
        picture = readme_curves.draw(readme_curves.read_csv(curves.read_text()))
        replace_file(curves.with_suffix(".svg"), picture.encode())
    headline = reference / "headline.md"
    if headline.exists():
        _show_headline(headline.read_text())


def _show_headline(table: str) -> None:
    """Put the chosen rows of the report's headline into README.md, and say which it lacks."""
    readme = (ROOT / "README.md").read_text()
    replace_file(ROOT / "README.md", between(readme, "headline", choose(table)).encode())
    for name in DEFENSES:
        if f"| {name} |" not in table:
            print(f"README.md has no row for {name}: neither has the report")


def choose(headline: str) -> str:
    """Return the README's part of the headline: `DEFENSES`, by names that a reader knows.

    Args:
        headline: the report's table, in Markdown.

    Returns:
        A Markdown table in the report's order; a defence that the report lacks is left out.
    """
    lines = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for line in headline.splitlines()
    ]
    header, _, *rows = lines
    columns = [header.index(name) for name in _COLUMNS]
    chosen = [list(_COLUMNS.values()), ["---"] * len(_COLUMNS)]
    for row in rows:
        if row[0] in DEFENSES:
            chosen.append([DEFENSES[row[0]], *(row[column] for column in columns[1:])])
    return "".join(f"| {' | '.join(row)} |\n" for row in chosen)


def draw(plot: go.Figure, path: Path) -> None:
    """Write a plot as a PNG file, as headless Chromium draws it.

    Raises:
        UserError: where there is no Chromium.
    """
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise UserError(f"the plots need one of {', '.join(_BROWSERS)}: install it and try again")
    plot.update_layout(paper_bgcolor="white", width=_WIDTH, font_color="#333")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "plot.html"
        page.write_text(
            "<body style='margin:0'>"
            + plot.to_html(full_html=False, include_plotlyjs=True, config={"displayModeBar": False})
        )
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={folder}/profile", f"--window-size={_WIDTH},{plot.layout.height}",
             "--virtual-time-budget=5000", f"--screenshot={path}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def between(text: str, name: str, block: str) -> str:
    """Replace what stands between the comments `<!-- name -->` and `<!-- /name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"the README has no {begin} ... {end}"
    return f"{before}{begin}\n\n{block}\n{end}{after}"


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
