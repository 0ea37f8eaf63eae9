"""What `make reference` keeps, and what it leaves as it is."""

import plotly.graph_objects as go
import pytest

from funn.errors import UserError
from funn.report import readme as reference

README = (
    "# A\n<!-- headline --><!-- /headline -->\n<!-- overview -->\nold\n<!-- /overview -->\n"
    "<!-- threats --><!-- /threats -->\n<!-- plots -->\n"
    "![Gone](outputs/reference/gone.png)\n![A curve](outputs/reference/curve.png)\n<!-- /plots -->"
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with a reference of `overview`, `others` and a plot, and a newer report."""
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(README)
    for folder, names in (
        ("reference", ("overview", "others")),
        ("report", ("overview", "robust")),
    ):
        (tmp_path / "outputs" / folder).mkdir(parents=True)
        for name in names:
            for end in ("md", "csv"):
                (tmp_path / "outputs" / folder / f"{name}.{end}").write_text(f"{folder} {name}\n")
    (tmp_path / "outputs/reference/curve.png").write_bytes(b"png")
    (tmp_path / "outputs/report/origin.txt").write_text("of revision abc\n")
    return tmp_path


def test_only_what_is_named_is_renewed(root):
    reference.main(["robust"])
    kept = root / "outputs/reference"
    assert (kept / "robust.md").read_text() == "report robust\n"
    assert (kept / "robust.csv").read_text() == "report robust\n"
    assert (kept / "overview.md").read_text() == "reference overview\n"
    readme = (root / "README.md").read_text()
    assert "old" in readme
    assert "![A curve](outputs/reference/curve.png)" in readme
    assert "gone.png" not in readme


def test_without_names_all_is_of_the_report(root):
    reference.main()
    there = {path.name for path in (root / "outputs/reference").iterdir()}
    assert there == {"overview.md", "overview.csv", "robust.md", "robust.csv", "origin.txt"}
    readme = (root / "README.md").read_text()
    assert "report overview\n\nof revision abc" in readme
    assert "curve.png" not in readme


def test_the_plots_of_the_bench_are_kept_too(root, monkeypatch):
    plots = root / "outputs/bench/plots"
    plots.mkdir(parents=True)
    plotted = go.Figure(layout={"title": "Cost"})
    (plots / "cost.json").write_text(plotted.to_json())
    (plots.parent / "size.json").write_text("[]")
    monkeypatch.setattr(reference, "draw", lambda plot, path: path.write_bytes(b"png"))
    reference.main(["cost", "bench-size"])
    assert (root / "outputs/reference/bench-size.json").read_text() == "[]"
    assert "![Cost](outputs/reference/cost.png)" in (root / "README.md").read_text()


def test_a_name_that_the_report_does_not_have(root):
    with pytest.raises(UserError, match="has no robsut: give some of overview robust"):
        reference.main(["robsut"])
    assert (root / "outputs/reference/others.md").exists()
