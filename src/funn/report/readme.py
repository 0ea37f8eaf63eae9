"""`make reference`: keep tables and plots of report and bench in outputs/reference and README."""

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

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WIDTH = 900
# In the README, by a comment before and after: what the report calls them, and whether the report's
# one line on their origin goes with them (the others name a revision in each row).
_TABLES = {"headline": False, "overview": True, "threats": True}
_PICTURE = r"!\[{}\]\(outputs/reference/{}\.png\)"


def main(names: Sequence[str] = ()) -> None:
    """Keep the tables of outputs/report, and PNGs of its plots and the bench's; README shows both.

    What the bench measured is kept as it is, as `bench-....json`.

    Args:
        names: of the tables and plots to renew, and the others stay as they are; none renews
            everything, and removes what the report no longer has.

    Raises:
        UserError: for a name that the report does not have.
    """
    report, reference = ROOT / "outputs" / "report", ROOT / "outputs" / "reference"
    there = {path.stem: path for end in ("md", "json") for path in report.glob(f"*.{end}")}
    bench = ROOT / "outputs" / "bench"
    there |= {path.stem: path for path in (bench / "plots").glob("*.json")}
    measured = {f"bench-{path.stem}": path for path in bench.glob("*.json")}
    there |= measured
    for name in names:
        if name not in there:
            raise UserError(f"{report} has no {name}: give some of {' '.join(sorted(there))}")
    readme = (ROOT / "README.md").read_text()
    origin = (report / "origin.txt").read_text()
    reference.mkdir(exist_ok=True)
    if not names:
        replace_file(reference / "origin.txt", origin.encode())
    titles = {name: title for title, name in re.findall(_PICTURE.format("(.*)", "(.*)"), readme)}
    for name in sorted(names or there):
        if there[name].suffix == ".md":
            table = there[name].read_text()
            replace_file(reference / f"{name}.md", table.encode())
            shutil.copyfile(report / f"{name}.csv", reference / f"{name}.csv")
            if name in _TABLES:
                readme = between(readme, name, f"{table}\n{origin}" if _TABLES[name] else table)
        elif name in measured:
            shutil.copyfile(there[name], reference / f"{name}.json")
        else:
            plot = plotly.io.from_json(there[name].read_text())
            draw(plot, reference / f"{name}.png")
            titles[name] = plot.layout.title.text
    for path in reference.iterdir():
        if not names and path.stem not in (*there, "origin"):
            path.unlink()
    pictures = [
        f"![{titles[name]}](outputs/reference/{name}.png)\n"
        for name in sorted(titles)
        if (reference / f"{name}.png").exists()
    ]
    replace_file(ROOT / "README.md", between(readme, "plots", "".join(pictures)).encode())
    print(reference)


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
    assert found, f"README.md has no {begin} ... {end}"
    return f"{before}{begin}\n\n{block}\n{end}{after}"


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
