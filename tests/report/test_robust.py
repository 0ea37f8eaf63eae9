"""What the report says of the strongest attacks, of hidden gradients and of the features."""

import csv
import os

import pyarrow as pa
import pytest
import torch
from test_report import DATA, named, write

from funn.artifacts.files import write_json
from funn.artifacts.layout import FEATURES, MASKING, RADII, ROBUST
from funn.config.schema import ReportConfig
from funn.evaluation.records.radii import NORMS
from funn.evaluation.records.table import write_table
from funn.report.figures.robustness import robust_curves
from funn.report.report import report as make_report
from funn.report.tables.distances import distances_table
from funn.report.tables.headline import headline
from funn.report.tables.robust import features_table, masking_table, robust_table

FASHION = DATA | {"name": "FashionMNIST", "sha256": "b"}
MINE = named("mine:net", {}) | {"settings_trained": None, "seed": None, "parents": []}


def about(defense, **changed):
    return named(defense, changed) | {"revision": "abcdefghij"}


def write_study(root, kind, run, content, facts, *, images=10, data=DATA, state="finished"):
    """Write what an evaluation found out, one second after what was found out before."""
    number = len(list(root.glob("eval/*/*/result.json")))
    folder = root / "eval" / run / f"{kind}-{number}"
    whole = {"study": kind, "run": run, "images": images, "data": data, **facts, **content}
    write_json(folder / "result.json", whole)
    os.utime(folder / "result.json", (number, number))
    write_json(folder / "status.json", {"state": state})
    return folder


def write_robust(root, run, facts, l2, linf, **more):
    content = {"l2": l2, "linf": linf, "clean_accuracy": 0.9}
    folder = write_study(root, ROBUST, run, content, facts, **more)
    left = round(10 * next(iter(l2.values()))["robust_accuracy"])
    radii = torch.tensor([0.5] * (10 - left) + [2.0] * left).numpy()
    write_table(folder / RADII, pa.table(dict.fromkeys(NORMS, radii)))


def test_robust_accuracy_by_encoder_and_radius(root):
    cell = {"images": 10, "robust_accuracy": 0.5, "interval": [0.25, 0.75]}
    for run, facts, radii in (
        ("funn-1", about("funn"), {"1": cell}),
        ("funn-2", about("funn", head="margin"), {"1": cell, "1.5": cell}),
        ("funn-3", about("funn", seed=1), {"1": cell}),
    ):
        write_robust(root, run, facts, radii, {"0.1": cell})
    write_robust(root, "classic-4", about("classic"), {"1": cell}, {}, state="running")
    table = robust_table(root)
    assert table.header == ("encoder", "clean accuracy", "L2 1", "L2 1.5", "Linf 0.1", "images",
                            "revision")  # fmt: skip
    shown = "50.00 % (25.0 to 75.0)"
    assert table.rows == [
        ["funn", "90.00 %", shown, "-", shown, "10", "abcdefg"],
        ["funn (head=margin)", "90.00 %", shown, shown, shown, "10", "abcdefg"],
        ["funn (seed=1)", "90.00 %", shown, "-", shown, "10", "abcdefg"],
    ]
    curves = robust_curves(root)  # of one seed
    assert set(curves) == {"robust-l0", "robust-l2", "robust-linf"}
    assert len(curves["robust-l2"].data) == 2


def test_the_distances_are_medians_and_means_of_the_curve(root):
    """Of three images fooled at 0.5 and seven at 2; past the largest eps nothing was attacked."""
    cell = {"images": 10, "robust_accuracy": 0.7, "interval": [0.25, 0.75]}
    write_robust(root, "funn-1", about("funn"), {"1": cell, "1.5": cell}, {"0.1": cell})
    write_robust(root, "classic-2", about("classic"), {"1": cell}, {})
    table = distances_table(root)
    means = [f"mean accuracy up to {end}" for end in ("L2 1", "L2 1.5", "Linf 0.1")]
    assert list(table.header[4:-2]) == means
    # 0.3 * 0.5 + 0.7 * 1, of 1; and 0.3 * 0.5 + 0.7 * 1.5, of 1.5.
    assert table.rows == [
        ["classic", "2", "2", "2", "85.00 %", "-", "-", "10", "abcdefg"],
        ["funn", "2", "2", "2", "85.00 %", "80.00 %", "100.00 %", "10", "abcdefg"],
    ]


# Each evaluation: of which classifier, on how many images, what was found.
@pytest.mark.parametrize(
    ("evaluations", "shown"),
    [
        # Of one classifier the most images, and of those the newest.
        ([("mine-1", 10, 0.6), ("mine-1", 5, 0.8)], "60.00 %"),
        ([("mine-1", 10, 0.6), ("mine-1", 10, 0.7), ("mine-1", 5, 0.8)], "70.00 %"),
        ([("mine-1", 5, 0.8), ("mine-1", 10, 0.6)], "60.00 %"),
        # Of several that are called the same the one that was examined last.
        ([("mine-1", 10, 0.6), ("mine-2", 5, 0.8)], "80.00 %"),
        ([("mine-2", 10, 0.6), ("mine-1", 5, 0.8)], "80.00 %"),
        ([("mine-1", 10, 0.6), ("mine-2", 10, 0.7), ("mine-1", 5, 0.8)], "60.00 %"),
    ],
)
def test_a_smaller_result_does_not_replace_a_larger_but_another_model_does(
    root, evaluations, shown
):
    for run, images, share in evaluations:
        cell = {"images": images, "robust_accuracy": share, "interval": [0.0, 1.0]}
        write_robust(root, run, MINE, {"1.5": cell}, {"0.1": cell}, images=images)
        use = {"clean": share, "attacked": share}
        content = {"neighbours": use, "retrieval": use, "probe": use}
        write_study(root, FEATURES, run, content, MINE, images=images)
        check = {"name": "G2", "figure": 100 * share, "bound": 1, "meaning": "", "passed": False}
        content = {"classifier": {"flagged": True, "checks": [check]}}
        write_study(root, MASKING, run, content, MINE, images=images)
    (row,) = robust_table(root).rows
    assert row[:3] == ["mine:net", "90.00 %", f"{shown} (0.0 to 100.0)"]
    (row,) = headline(root, []).rows
    assert row[4:6] == [f"{shown} (0.0 to 100.0)"] * 2
    (row,) = features_table(root).rows
    assert row[:7] == ["mine:net", *[shown] * 6]
    assert masking_table(root).rows[0][2] == f"{shown[:2]} ✗"
    (line,) = robust_curves(root)["robust-l2"].data
    assert line.name.startswith("mine:net (")
    assert dict(zip(line.x, line.y, strict=True))[0.5] == pytest.approx(float(shown[:5]) / 100)


def read(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_two_data_sets_give_each_table_a_column_that_names_them(root):
    cell = {"images": 10, "robust_accuracy": 0.5, "interval": [0.25, 0.75]}
    funn = about("funn") | {"seed": 0, "parents": []}
    write_robust(root, "funn-1", funn, {"1.5": cell}, {})
    write(root, "funn-1", "fgsm")
    make_report(ReportConfig(str(root), str(root)))
    tables = ("overview", "table1", "robust", "headline", "origins")
    for name in tables:  # of one data set
        assert all("data" not in row for row in read(root / f"report/{name}.csv")), name

    for run, data in (("mine-1", DATA), ("mine-2", FASHION)):
        write_robust(root, run, MINE, {"1.5": cell}, {}, data=data)
        write(root, run, "fgsm", data=data, **MINE)
    page = make_report(ReportConfig(str(root), str(root))).read_text()
    expected = {
        "funn": "MNIST",
        "mine:net on MNIST": "MNIST",
        "mine:net on FashionMNIST": "FashionMNIST",
    }
    for name in tables[1:]:
        rows = read(root / f"report/{name}.csv")
        assert {row["encoder"]: row["data"] for row in rows} == expected, name
        assert len(rows) == 3
    rows = read(root / "report/overview.csv")
    assert {row["data"] for row in rows if row["encoder"] == "funn"} == {"MNIST"}
    assert "<th>data" in page
    # The links of a cell went with it.
    assert page.count('href="../eval/funn-1/fgsm-strict-1/result.json"') >= 2


def test_data_sets_are_told_apart_between_attacks_and_examinations(root):
    """The same classifier, attacked on the one and examined on the other."""
    write(root, "mine-1", "fgsm", data=DATA, **MINE)
    use = {"clean": 0.9, "attacked": 0.1}
    content = {"neighbours": use, "retrieval": use, "probe": use}
    write_study(root, FEATURES, "mine-2", content, MINE | {"revision": "a"}, data=FASHION)
    make_report(ReportConfig(str(root), str(root)))
    assert [row["data"] for row in read(root / "report/table1.csv")] == ["MNIST"]
    assert [row["data"] for row in read(root / "report/features.csv")] == ["FashionMNIST"]


def test_the_headline_says_what_each_defence_withstands_and_costs(root):
    """The most robust last; what was not measured is a dash."""
    for run, facts, share in (
        ("funn_pgd-1", about("funn_pgd", head="margin"), 0.8),
        ("classic-1", about("classic"), 0.0),
    ):
        cell = {"images": 10, "robust_accuracy": share, "interval": [0.0, 1.0]}
        parents = [{"path": f"{run}/classifier/model.ckpt"}, {"path": "init-1/init/model.ckpt"}]
        write_robust(root, run, facts | {"seed": 0, "parents": parents}, {"1.5": cell}, {})
        write_json(root / "train" / run / "classifier/result.json", {"wall_seconds": 60})
    write_json(root / "train/init-1/init/result.json", {"wall_seconds": 90})
    table = headline(root, [])
    none = "-"
    assert table.rows == [
        ["classic", "0", "90.00 %", none, "0.00 % (0.0 to 100.0)", none, "10", "2.5", "abcdefg"],
        [
            "funn_pgd (head=margin)",
            "0",
            "90.00 %",
            none,
            "80.00 % (0.0 to 100.0)",
            none,
            "10",
            "2.5",
            "abcdefg",
        ],
    ]


def test_flagged_checks_are_marked(root):
    check = {"name": "G2 zeros", "figure": 0.25, "bound": 0.001, "meaning": "blind"}
    for run, defense, passed in (("funn-1", "funn", False), ("classic-2", "classic", True)):
        part = {"flagged": not passed, "checks": [{**check, "passed": passed}]}
        write_study(root, MASKING, run, {"classifier": part}, about(defense))
    table = masking_table(root)
    assert table.header[2:4] == ("classic", "funn")
    assert table.rows == [
        ["G2 zeros", "0.001", "0.25", "0.25 ✗", "blind"],
        ["verdict", "", "passed", "flagged", ""],
        ["revision", "", "abcdefg", "abcdefg", ""],
    ]


def test_uses_of_the_features(root):
    use = {"clean": 0.9, "attacked": 0.1}
    content = {"neighbours": use, "retrieval": use, "probe": use}
    write_study(root, FEATURES, "funn-1", content, about("funn"), images=5)
    table = features_table(root)
    assert table.rows == [["funn", *["90.00 %", "10.00 %"] * 3, "5", "abcdefg"]]
    assert table.header[1:3] == ("nearest neighbours", "nearest neighbours, attacked")


def test_nothing_measured_nothing_shown(root):
    assert not headline(root, []).rows
    assert not robust_table(root).rows
    assert not distances_table(root).rows
    assert not masking_table(root).rows
    assert not features_table(root).rows
    assert not robust_curves(root)
