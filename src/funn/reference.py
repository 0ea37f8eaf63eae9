"""`make reference`: keep the report's tables and plots in outputs/reference and the README."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from funn.config import ROOT
from funn.errors import UserError
from funn.files import replace_file

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WIDTH = 900
# In the README, by a comment before and after: what the report calls them.
_TABLES = ("headline", "overview", "threats")


def main() -> None:
    """Copy the tables of outputs/report, draw its plots, and show both in README.md."""
    report, reference = ROOT / "outputs" / "report", ROOT / "outputs" / "reference"
    reference.mkdir(exist_ok=True)
    for path in reference.iterdir():
        path.unlink()
    for path in (*report.glob("*.md"), *report.glob("*.csv"), report / "origin.txt"):
        shutil.copyfile(path, reference / path.name)
    plots = {path.stem: plotly.io.from_json(path.read_text()) for path in report.glob("*.json")}
    for name, plot in sorted(plots.items()):
        draw(plot, reference / f"{name}.png")
    readme = (ROOT / "README.md").read_text()
    origin = (reference / "origin.txt").read_text()
    shown = [name for name in _TABLES if (reference / f"{name}.md").exists()]
    for name in shown:
        readme = between(readme, name, f"{(reference / f'{name}.md').read_text()}\n{origin}")
    images = [
        f"![{plot.layout.title.text}](outputs/reference/{name}.png)"
        for name, plot in sorted(plots.items())
    ]
    readme = between(readme, "plots", "\n".join(images) + "\n")
    replace_file(ROOT / "README.md", readme.encode())
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
    main()
