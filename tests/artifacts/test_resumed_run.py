"""A stage that is killed and trained on by the same command stays one W&B run."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import wandb
from conftest import ROOT, SMALL, run_command
from offline_runs import read_run

from funn.artifacts.files import read_json
from funn.artifacts.layout import RESUME, TRACKED
from funn.artifacts.tracking import wandb_run
from funn.config.schema import LoggerConfig

# Long enough to be caught before it ends.
LONG = (*(item for item in SMALL if item != "logger=csv"), "logger=wandb", "phase=init",
        "init.epochs=40")  # fmt: skip


def offline(folder):
    """The files of all offline runs, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_a_killed_stage_goes_on_with_its_run_and_one_that_starts_anew_does_not(tmp_path):
    typed = (*LONG, f"output_dir={tmp_path}")
    environment = {**os.environ, "WANDB_MODE": "offline"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "src/train.py"), *typed],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(f"train/init-*/init/{RESUME}")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (kept,) = tmp_path.glob(f"train/init-*/init/{TRACKED}")
    identity = read_json(kept)
    assert identity["offline"]
    time.sleep(1)  # an offline run's folder is named by the second

    done = run_command("train.py", *typed)
    assert done.returncode == 0, done.stderr
    first, second = offline(tmp_path)
    assert first.name == second.name == f"run-{identity['id']}.wandb"
    run = read_run(second)
    assert run.id == identity["id"]
    epochs = [row["epoch"] for row in run.rows if "epoch/defender_loss" in row]
    assert epochs == list(range(int(epochs[0]), 41))
    assert epochs[0] > 1  # it went on, it did not begin again
    assert not kept.exists()

    assert run_command("train.py", *typed, "reuse=false").returncode == 0
    assert offline(tmp_path)[-1].name not in (first.name, second.name)


@pytest.fixture
def opened(monkeypatch):
    """What W&B is asked to open; it does, in the mode that is asked for."""
    asked = []

    def init(**arguments):
        asked.append(arguments)
        return SimpleNamespace(
            id=arguments["id"], offline=arguments["mode"] == "offline",
            define_metric=lambda *names, **options: None, finish=lambda exit_code: None,
        )  # fmt: skip

    monkeypatch.setattr(wandb, "init", init)
    return asked


def open_run(folder, mode, kept):
    about = {"name": "n", "group": "g", "job_type": "init", "config": {}}
    with wandb_run(LoggerConfig(wandb=True, mode=mode), folder=folder, kept=kept, **about):
        pass


def test_what_is_kept_names_the_run_that_is_opened_again(opened, tmp_path):
    for _ in range(2):
        open_run(tmp_path, "online", tmp_path / TRACKED)
    first, second = opened
    assert "resume" not in first
    assert (second["id"], second["resume"], second["mode"]) == (first["id"], "allow", "online")


def test_a_run_that_began_offline_goes_on_offline(opened, tmp_path):
    for mode in ("offline", "online"):
        open_run(tmp_path, mode, tmp_path / TRACKED)
    assert [arguments["mode"] for arguments in opened] == ["offline", "offline"]
    assert opened[0]["id"] == opened[1]["id"]


def test_without_a_file_each_run_is_another(opened, tmp_path):
    for _ in range(2):
        open_run(tmp_path, "online", None)
    assert opened[0]["id"] != opened[1]["id"]
