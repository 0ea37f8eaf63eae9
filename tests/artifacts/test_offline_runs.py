"""What runs log to W&B, and that the dashboard names it: read back from the offline files."""

import json

import pytest
from conftest import SMALL, run_command
from offline_runs import read_run, read_table

from funn.artifacts import dashboard
from funn.artifacts.dashboard import specification
from funn.artifacts.tracked_evaluation import (
    ATTACKS,
    CASCADE,
    CHECKS,
    ROBUST_ACCURACY,
    USES,
    VERDICTS,
)

pytestmark = pytest.mark.slow

PANELS = [panel for section in specification()["sections"] for panel in section["panels"]]
# log_every: an epoch has five batches here.
WITH_WANDB = (*(item for item in SMALL if item != "logger=csv"), "logger=wandb", "log_every=2")
SUITES = (
    (
        "suite=table1", "images=10", "suite.attacks.deepfool_l2.steps=50",
        "suite.attacks.deepfool_linf.steps=50", "suite.attacks.local_search.R=3",
    ),
    (
        "suite=strong", "images=20",
        *(f"~suite.attacks.{name}" for name in ("ddn", "fmn_l0", "sigma_zero")),
        *(
            f"~suite.cascade.{norm}.attacks.{name}"
            for norm in ("l2", "linf")
            for name in ("apgd_t", "fab_t", "square")
        ),
    ),
    ("suite=masking", "images=10"),
    ("suite=features", "images=20"),
)  # fmt: skip


OTHERS = (
    ("defense=funn_pgd", "model=paper", "adversarial.epochs=1"),
    ("defense=denoising",),
    ("defense=adversarial_training", "defense.stages.classifier.steps=1", "classifier.epochs=1"),
    ("defense=apegan", "defense.stages.classifier.epochs=1"),
    (
        "defense=magnet_classic", "defense.stages.classifier.epochs=1",
        "defense.stages.classifier.held_out=100",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained funn, and what four suites find of it, all logged offline."""
    folder = tmp_path_factory.mktemp("outputs")
    done = run_command("train.py", *WITH_WANDB, f"output_dir={folder}")
    assert done.returncode == 0, done.stderr
    for suite in SUITES:
        attack = (f"run={folder}/latest/funn", *suite, f"output_dir={folder}")
        done = run_command("evaluate.py", *attack)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    return [read_run(path) for path in folder.glob("wandb/offline-run-*/*.wandb")]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A training of every other kind of defence."""
    folder = tmp_path_factory.mktemp("others")
    for defense in OTHERS:
        done = run_command("train.py", *WITH_WANDB, *defense, f"output_dir={folder}")
        assert done.returncode == 0, done.stderr
    return [read_run(path) for path in folder.glob("wandb/offline-run-*/*.wandb")]


def evaluation(runs, suite):
    (run,) = (run for run in runs if run.name.endswith(f"-{suite}"))
    return run


def logged(runs, panel):
    """Whether one run at least has all that a panel shows."""
    match panel["type"]:
        case "LinePlot":
            names = {panel["x"], *panel["y"]}
            return any(names <= row.keys() for run in runs for row in run.rows)
        case "BarPlot":
            return any(set(panel["metrics"]) <= run.summary.keys() for run in runs)
        case "ScatterPlot":
            key = panel["x"]["config"]
            return any(key in run.config and panel["y"] in run.summary for run in runs)
        case "MediaBrowser":
            kinds = ("image-file", "images/separated")
            shown = [f"{key}/_type" for key in panel["media_keys"]]
            return any(all(run.summary.get(key) in kinds for key in shown) for run in runs)
        case "WeavePanelSummaryTable":
            kind = f"{panel['table_name']}/_type"
            return any(run.summary.get(kind) == "table-file" for run in runs)


def test_every_panel_shows_what_some_run_logs(runs, others):
    assert [panel for panel in PANELS if not logged([*runs, *others], panel)] == []
    assert not logged(runs, {"type": "LinePlot", "x": "epoch", "y": ["epoch/never"]})


def test_every_metric_of_a_training_has_a_panel(runs, others):
    shown = {name for panel in PANELS if panel["type"] == "LinePlot" for name in panel["y"]}
    trained = [run for run in [*runs, *others] if run.kind != "evaluation"]
    names = {name for run in trained for row in run.rows for name in row}
    assert {name for name in names if name.startswith(("epoch/", "batch/"))} == {
        name for name in shown if name.startswith(("epoch/", "batch/"))
    }


def test_the_dashboard_shows_every_attack_of_table_1(runs):
    ending = "/success_rate_verified"
    summary = evaluation(runs, "table1").summary
    trials = {name.removesuffix(ending) for name in summary if name.endswith(ending)}
    assert trials == {
        f"{name}/{protocol}"
        for protocol in dashboard.ATTACKS
        for name in dashboard.ATTACKS[protocol]
    }


def test_the_curve_is_that_of_the_result_up_to_all_iterations(folder, runs):
    results = [
        json.loads(path.read_text()) for path in folder.glob("eval/*/deepfool_l2-strict-*/*.json")
    ]
    (curve,) = (result["curve"] for result in results if result.get("images") == 10)
    name, rows = "curve/deepfool_l2/strict/verified", evaluation(runs, "table1").rows
    points = [(row["curve/iterations"], row[name]) for row in rows if name in row]
    expected = list(zip(curve["steps"], curve["verified"], strict=True))
    assert expected
    assert points[: len(expected)] == expected
    assert points[-1] == (50, curve["verified"][-1])


def test_a_run_is_named_as_its_folder_and_grouped_with_its_training(folder, runs):
    (trained,) = folder.glob("train/funn-*/classifier")
    stages = {run.kind: run for run in runs if run.kind != "evaluation"}
    table1 = evaluation(runs, "table1")
    assert stages.keys() == {"init", "adversarial", "classifier"}
    for kind, run in stages.items():
        owner = run.name.removesuffix(f"-{kind}")
        assert (folder / "train" / owner / kind / "result.json").exists()
    (attacked,) = folder.glob(f"eval/{trained.parent.name}-*")
    assert table1.name == f"{attacked.name}-table1"
    (training,) = {run.group for run in stages.values()}
    assert training.startswith("train-")
    assert {run.group for run in runs} == {training}
    # What it was trained with: success is plotted against beta, data is what it was attacked on.
    for key in ("beta", "seed", "defense", "data"):
        assert table1.config[key] == stages["classifier"].config[key]
    assert table1.config["images"] == 10


def found(folder, kind):
    (path,) = folder.glob(f"eval/*/{kind}-*/result.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("suite", ["table1", "strong"])
def test_the_table_of_attacks_grows_with_each(runs, suite):
    rows = [
        row[f"{ATTACKS}/nrows"] for row in evaluation(runs, suite).rows if f"{ATTACKS}/nrows" in row
    ]
    assert rows == list(range(1, {"table1": 11, "strong": 4}[suite] + 1))


def test_the_attacks_on_what_was_left_have_a_table_of_their_own(folder, runs):
    rows = read_table(evaluation(runs, "strong"), CASCADE)
    cascade = {path.parent.name for path in folder.glob("eval/*/worst/*/result.json")}
    assert rows
    assert len(rows) == len(cascade)
    assert {row["norm"] for row in rows} <= {"l2", "linf"}


def test_robust_accuracy_is_a_table_and_a_curve_by_norm(folder, runs):
    run, summary = evaluation(runs, "strong"), found(folder, "robust_accuracy")
    rows = read_table(run, ROBUST_ACCURACY)
    assert [(row["norm"], row["eps"]) for row in rows] == [
        *(("l2", eps) for eps in (0.5, 1.0, 1.5, 2.0)),
        *(("linf", eps) for eps in (0.1, 0.2, 0.3)),
    ]
    for row in rows:
        assert row["robust_accuracy"] == summary[row["norm"]][f"{row['eps']:g}"]["robust_accuracy"]
    for norm in ("l2", "linf"):
        name = f"robust/{norm}"
        curve = [(row["robust/eps"], row[name]) for row in run.rows if name in row]
        points = [(row["eps"], row["robust_accuracy"]) for row in rows if row["norm"] == norm]
        assert curve == [(0, summary["clean_accuracy"]), *points]


def test_the_masking_checks_have_verdicts_and_the_controls_are_marked(folder, runs):
    run, result = evaluation(runs, "masking"), found(folder, "masking")
    verdicts = {row["classifier"]: row for row in read_table(run, VERDICTS)}
    assert verdicts.keys() == {"classifier", "saturated", "quantised"}
    for name, row in verdicts.items():
        assert row["verdict"] == ("flagged" if result[name]["flagged"] else "passed")
        assert ("meant to be flagged" in row["role"]) == (name != "classifier")
    checks = read_table(run, CHECKS)
    assert len(checks) == sum(len(result[name]["checks"]) for name in verdicts)
    for name in verdicts:
        flagged = [
            row for row in checks if (row["classifier"], row["verdict"]) == (name, "flagged")
        ]
        assert run.summary[f"masking/{name}/flagged"] == len(flagged)


def test_the_uses_of_the_features_are_a_table(folder, runs):
    run, result = evaluation(runs, "features"), found(folder, "features")
    rows = {row["use"]: row for row in read_table(run, USES)}
    assert rows.keys() == {"neighbours", "retrieval", "probe"}
    for use, row in rows.items():
        assert {"clean": row["clean"], "attacked": row["attacked"]} == result[use]
        assert run.summary[f"features/{use}/clean"] == result[use]["clean"]
