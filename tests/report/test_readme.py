"""What `make reference` keeps, what it leaves as it is, and what it shows in the READMEs."""

import re
import xml.etree.ElementTree as ET

import plotly.graph_objects as go
import pytest
from conftest import ROOT

from funn.errors import UserError
from funn.report import readme as reference
from funn.report.figures import readme_curves

BLOCKS = "".join(f"<!-- {name} --><!-- /{name} -->\n" for name in reference._TABLES)
PAGE = (
    f"# Reference\n{BLOCKS.replace('<!-- overview -->', '<!-- overview -->old')}<!-- plots -->\n"
    "![Gone](gone.png)\n![A curve](curve.png)\n<!-- /plots -->"
)
HEADLINE = (
    "| encoder | seed | clean accuracy | robust accuracy, L2 1.5 | robust accuracy, Linf 0.1 "
    "| images | training, minutes | revision |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    "| funn | 0 | 97.50 % | 0.50 % (0.2 to 1.2) | 0.20 % (0.1 to 0.7) | 1000 | 9.7 | 9f8089c |\n"
    "| funn (seed=1) | 1 | 97.60 % | 0.60 % | - | 1000 | 9.7 | 9f8089c |\n"
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with a reference of `overview`, `others` and a plot, and a newer report."""
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# A\n<!-- headline --><!-- /headline -->\n")
    for folder, names in (
        ("reference", ("overview", "others")),
        ("report", ("overview", "robust")),
    ):
        (tmp_path / "outputs" / folder).mkdir(parents=True)
        (tmp_path / "outputs" / folder / "origin.txt").write_text(f"of the {folder}\n")
        for name in names:
            for end in ("md", "csv"):
                (tmp_path / "outputs" / folder / f"{name}.{end}").write_text(f"{folder} {name}\n")
    (tmp_path / "outputs/reference/README.md").write_text(PAGE)
    (tmp_path / "outputs/reference/curve.png").write_bytes(b"png")
    return tmp_path


def test_only_what_is_named_is_renewed(root):
    reference.main(["robust"])
    kept = root / "outputs/reference"
    assert (kept / "robust.md").read_text() == "report robust\n"
    assert (kept / "robust.csv").read_text() == "report robust\n"
    assert (kept / "overview.md").read_text() == "reference overview\n"
    page = (kept / "README.md").read_text()
    assert "reference overview\n\nof the reference" in page
    assert "report robust" in page
    assert "![A curve](curve.png)" in page
    assert "gone.png" not in page


def test_without_names_all_is_of_the_report(root):
    reference.main()
    kept = root / "outputs/reference"
    assert {path.name for path in kept.iterdir()} == {
        "README.md", "overview.md", "overview.csv", "robust.md", "robust.csv", "origin.txt",
    }  # fmt: skip
    page = (kept / "README.md").read_text()
    assert "report overview\n\nof the report" in page
    assert "curve.png" not in page


def test_the_plots_of_the_bench_are_kept_too(root, monkeypatch):
    plots = root / "outputs/bench/plots"
    plots.mkdir(parents=True)
    plotted = go.Figure(layout={"title": "Cost"})
    (plots / "cost.json").write_text(plotted.to_json())
    (plots.parent / "size.json").write_text("[]")
    monkeypatch.setattr(reference, "draw", lambda plot, path: path.write_bytes(b"png"))
    reference.main(["cost", "bench-size"])
    assert (root / "outputs/reference/bench-size.json").read_text() == "[]"
    assert "![Cost](cost.png)" in (root / "outputs/reference/README.md").read_text()


def test_a_name_that_the_report_does_not_have(root):
    with pytest.raises(UserError, match="has no robsut: give some of overview robust"):
        reference.main(["robsut"])
    assert (root / "outputs/reference/others.md").exists()


def test_the_readme_shows_a_few_rows_by_names_that_a_reader_knows(root, capsys):
    (root / "outputs/report/headline.md").write_text(HEADLINE)
    (root / "outputs/report/headline.csv").write_text("")
    reference.main(["headline"])
    readme = (root / "README.md").read_text()
    row = "| FUNN as published (`funn`) | 97.50 % | 0.50 % (0.2 to 1.2) | 0.20 % (0.1 to 0.7) |"
    assert f"{row} 1000 | 9.7 |" in readme
    assert "97.60" not in readme
    assert "no row for classic: neither has the report" in capsys.readouterr().out
    assert "97.60" in (root / "outputs/reference/README.md").read_text()


def test_the_readmes_picture_is_of_the_reports_curves(root, monkeypatch):
    steps = go.Scatter(x=[0, 0.5, 0.5, 9], y=[0.9, 0.9, 0.25, 0.25], name="funn (50 % at 0.5)")
    other = go.Scatter(x=[0, 9], y=[1, 1], name="magnet (50 % at 9)")
    plot = go.Figure([steps, other], layout={"title": "Robust accuracy"})
    (root / "outputs/report/robust-l2.json").write_text(plot.to_json())
    monkeypatch.setattr(reference, "draw", lambda plot, path: path.write_bytes(b"png"))
    reference.main(["robust-l2"])
    kept = (root / "outputs/reference/robust-accuracy.csv").read_text()
    assert kept.startswith("eps,funn\n0,0.9\n")
    assert "\n0.45,0.9\n0.5,0.25\n" in kept
    drawn = ET.fromstring((root / "outputs/reference/robust-accuracy.svg").read_text())
    assert len(drawn.findall("{*}polyline")) == 2  # the curve, and its line in the legend


def test_curves_are_read_as_they_were_written():
    curves = {readme_curves.SUPERVISED: [(0.0, 1.0), (0.05, 0.5)]}
    assert readme_curves.read_csv(readme_curves.write_csv(curves)) == curves


def test_both_readmes_are_what_the_reference_says(tmp_path, monkeypatch):
    kept = tmp_path / "outputs" / "reference"
    kept.mkdir(parents=True)
    for path in (ROOT / "outputs" / "reference").iterdir():
        (kept / path.name).write_bytes(path.read_bytes())
    (tmp_path / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    reference.write_readmes()
    for name in (
        "README.md",
        "outputs/reference/README.md",
        "outputs/reference/robust-accuracy.svg",
    ):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name


def test_the_picture_agrees_with_the_table_of_robust_accuracies():
    reference_folder = ROOT / "outputs" / "reference"
    curves = readme_curves.read_csv((reference_folder / "robust-accuracy.csv").read_text())
    assert curves.keys() == readme_curves.DEFENSES.keys()
    rows = [line.split(" | ") for line in (reference_folder / "robust.md").read_text().splitlines()]
    table = {row[0].removeprefix("| "): row for row in rows}
    for name, points in curves.items():
        for eps, column in ((0, 1), (1.5, 2), (2, 3)):
            assert dict(points)[eps] == pytest.approx(
                float(table[name][column].split(" %")[0]) / 100
            )
        accuracies = [accuracy for _, accuracy in points]
        assert accuracies == sorted(accuracies, reverse=True)


def test_no_line_is_drawn_through_points_that_are_missing():
    points = [(0.0, 1.0), (0.5, 0.8), (0.55, 0.7)]
    text = readme_curves.write_csv({"funn": points, "classic": [(0.0, 1.0), (0.05, 0.9)]})
    curves = readme_curves.read_csv(text)
    assert curves["funn"] == points
    lines = re.findall(r'stroke="#d95f02"[^>]*points="([^"]*)"', readme_curves.draw(curves))
    assert [len(line.split()) for line in lines] == [1, 2, 2]  # the last is the legend's
