"""The dashboard names what the runs really log: read back from the offline files."""

import json
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest
import wandb
from conftest import ROOT, SMALL, run_command
from wandb.proto import wandb_internal_pb2
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb_workspaces import workspaces

from funn.artifacts.dashboard import ATTACKS, specification
from funn.artifacts.tracking import build_workspace, save_workspace
from funn.errors import UserError

PANELS = [panel for section in specification()["sections"] for panel in section["panels"]]
# log_every: an epoch has five batches here.
WITH_WANDB = (*(item for item in SMALL if item != "logger=csv"), "logger=wandb", "log_every=2")
SHORT = (
    "suite.attacks.deepfool_l2.steps=50",
    "suite.attacks.deepfool_linf.steps=50",
    "suite.attacks.local_search.R=3",
)
_BLOCK = 32768


def records(path):
    """The records of a `.wandb` file: a LevelDB log behind a header of seven bytes."""
    data, at, kept = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < 7:  # the padding of a block
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        kept += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(kept)
            kept = b""
            yield record


def values(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(path):
    run = SimpleNamespace(rows=[], summary={})
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name, run.group = record.run.display_name, record.run.run_group
            run.kind, run.config = record.run.job_type, values(record.run.config.update)
        elif kind == "history":
            run.rows.append(values(record.history.item))
        elif kind == "summary":
            run.summary |= values(record.summary.update)
    # A run that was closed at once may keep its summary in its history alone.
    run.summary = {name: value for row in run.rows for name, value in row.items()} | run.summary
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained funn and its table 1, both logged offline."""
    folder = tmp_path_factory.mktemp("outputs")
    done = run_command("train.py", *WITH_WANDB, f"output_dir={folder}")
    assert done.returncode == 0, done.stderr
    attack = (f"run={folder}/latest/funn", "suite=table1", "images=10", f"output_dir={folder}")
    done = run_command("evaluate.py", *attack, *SHORT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    return [read_run(path) for path in folder.glob("wandb/offline-run-*/*.wandb")]


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


@pytest.mark.slow
def test_every_panel_shows_what_some_run_logs(runs):
    assert [panel for panel in PANELS if not logged(runs, panel)] == []
    assert not logged(runs, {"type": "LinePlot", "x": "epoch", "y": ["epoch/never"]})


@pytest.mark.slow
def test_the_dashboard_shows_every_attack_of_table_1(runs):
    (evaluation,) = (run for run in runs if run.kind == "evaluation")
    ending = "/success_rate_verified"
    trials = {name.removesuffix(ending) for name in evaluation.summary if name.endswith(ending)}
    assert trials == {f"{name}/{protocol}" for protocol in ATTACKS for name in ATTACKS[protocol]}


@pytest.mark.slow
def test_the_curve_is_that_of_the_result_up_to_all_iterations(folder, runs):
    (path,) = folder.glob("eval/*/deepfool_l2-strict-*/result.json")
    curve = json.loads(path.read_text())["curve"]
    (evaluation,) = (run for run in runs if run.kind == "evaluation")
    name = "curve/deepfool_l2/strict/verified"
    points = [(row["curve/iterations"], row[name]) for row in evaluation.rows if name in row]
    expected = list(zip(curve["steps"], curve["verified"], strict=True))
    assert expected
    assert points[: len(expected)] == expected
    assert points[-1] == (50, curve["verified"][-1])


@pytest.mark.slow
def test_a_run_is_named_as_its_folder_and_grouped_by_its_command(folder, runs):
    (trained,) = folder.glob("train/funn-*/classifier")
    stages = {run.kind: run for run in runs}
    evaluation = stages.pop("evaluation")
    assert stages.keys() == {"init", "adversarial", "classifier"}
    for kind, run in stages.items():
        owner = run.name.removesuffix(f"-{kind}")
        assert (folder / "train" / owner / kind / "result.json").exists()
    (attacked,) = folder.glob(f"eval/{trained.parent.name}-*")
    assert evaluation.name == f"{attacked.name}-table1"
    (training,) = {run.group for run in stages.values()}
    assert training.startswith("train-")
    assert evaluation.group.startswith("evaluate-")
    # What it was trained with: success is plotted against beta, data is what it was attacked on.
    for key in ("beta", "seed", "defense", "data"):
        assert evaluation.config[key] == stages["classifier"].config[key]
    assert evaluation.config["images"] == 10


def dashboard(home, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "funn.artifacts.dashboard", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "src"), "HOME": str(home)},
    )


def test_a_dry_run_prints_the_specification_without_an_account(tmp_path):
    done = dashboard(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == specification()


def test_who_is_not_logged_in_reads_one_line(tmp_path):
    done = dashboard(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "wandb login" in line


def test_the_specification_becomes_a_workspace_of_wandb():
    workspace = build_workspace(specification(), "digits", "somebody")
    assert (workspace.entity, workspace.project) == ("somebody", "digits")
    config = workspace._spec["spec"]["section"]["panelBankConfig"]
    made = [panel for section in config["sections"] for panel in section["panels"]]
    assert len(made) == len(PANELS)
    scatter = next(panel for panel in made if panel["viewType"] == "Scatter Plot")
    assert scatter["config"]["xAxis"] == "config:beta.value"


def test_it_is_saved_for_the_entity_or_the_default_one(monkeypatch):
    account = SimpleNamespace(default_entity="me")
    monkeypatch.setattr(wandb, "Api", lambda: account)
    saved = []

    def save(self):
        saved.append((self.entity, self.project))
        return SimpleNamespace(url="where it is")

    monkeypatch.setattr(workspaces.Workspace, "save", save)
    assert save_workspace(specification(), "digits", None) == "where it is"
    save_workspace(specification(), "digits", "team")
    assert saved == [("me", "digits"), ("team", "digits")]

    def refuse(self):
        raise WandbApiFailedError("no such project")

    monkeypatch.setattr(workspaces.Workspace, "save", refuse)
    with pytest.raises(UserError, match="no such project"):
        save_workspace(specification(), "digits", "team")
    account.default_entity = None
    with pytest.raises(UserError, match="--entity"):
        save_workspace(specification(), "digits", None)
