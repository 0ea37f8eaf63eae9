"""W&B runs, read back from the offline files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL, run_command

pytestmark = pytest.mark.slow

WANDB = Path(sys.executable).parent / "wandb"
WITH_WANDB = (*(item for item in SMALL if item != "logger=csv"), "logger=wandb")


def runs(folder):
    """Config, summary and state of each offline run, oldest first."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*"), key=lambda item: item.stat().st_ctime):
        command = [str(WANDB), "leet", "inspect", "--summary", "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    return found


def test_each_stage_and_evaluation_is_one_run_that_ends_as_it_did(tmp_path):
    sweep = (*WITH_WANDB, "phase=init", "init.attacker_lr=1e38,1e-3", f"output_dir={tmp_path}")
    # No mode is set and nobody is logged in: no prompt, no crash.
    done = run_command(
        "train.py", "-m", *sweep, WANDB_MODE="", HOME=str(tmp_path), WANDB_API_KEY=""
    )
    assert done.returncode == 2
    failed, finished = runs(tmp_path)
    print(json.dumps(finished)[:3000])
    assert failed != finished
