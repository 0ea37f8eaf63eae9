"""The dashboard as data, as a workspace of W&B, and as a command."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import wandb
from conftest import ROOT
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb_workspaces import workspaces

from funn.artifacts.dashboard import specification
from funn.artifacts.tracking import build_workspace, save_workspace
from funn.errors import UserError

PANELS = [panel for section in specification()["sections"] for panel in section["panels"]]


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
