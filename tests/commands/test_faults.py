"""Kills, signals, failing jobs, several processes: nothing is lost or changed."""

import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SMALL, run_command
from soak import soak

from funn.artifacts.files import sha256

pytestmark = pytest.mark.slow


def start(script, *overrides):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "src" / script), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def wait_for(found, process, seconds=120):
    """Wait until `found()` is true while the process lives."""
    deadline = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights(folder, stage="classifier"):
    return sha256(folder / "latest/funn" / stage / "model.ckpt")


# Long enough in the adversarial phase to be caught there, between two epochs and within one.
LONGER = (*SMALL, "adversarial.epochs=8")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run_command("train.py", *LONGER, f"output_dir={folder}").returncode == 0
    return folder


@pytest.mark.parametrize("delay", [0.0, 0.11])
def test_a_kill_in_the_adversarial_phase_changes_nothing(uninterrupted, tmp_path, delay):
    process = start("train.py", *LONGER, f"output_dir={tmp_path}")
    wait_for(lambda: list(tmp_path.glob("train/funn-*/adversarial/last.ckpt")), process)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (status,) = tmp_path.glob("train/funn-*/adversarial/status.json")
    assert json.loads(status.read_text())["state"] == "running"
    assert not list(tmp_path.glob("train/funn-*/adversarial/model.ckpt"))

    done = run_command("train.py", *LONGER, f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "adversarial: epoch 1/8" not in done.stderr  # it went on, it did not begin again
    for stage in ("adversarial", "classifier"):
        assert weights(tmp_path, stage) == weights(uninterrupted, stage)
    logs = [folder / "latest/funn/adversarial/metrics.csv" for folder in (tmp_path, uninterrupted)]
    assert logs[0].read_text() == logs[1].read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_sweep_and_leaves_a_state_to_go_on_from(uninterrupted, tmp_path, number):
    sweep = (*LONGER, "beta=0.01,0.02", f"output_dir={tmp_path}")
    process = start("train.py", "-m", *sweep)
    wait_for(lambda: list(tmp_path.glob("train/funn-*/adversarial/last.ckpt")), process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "run the same command again to go on" in stderr
    (status,) = tmp_path.glob("train/funn-*/adversarial/status.json")  # the second job never began
    assert json.loads(status.read_text())["state"] == "interrupted"

    done = run_command("train.py", *LONGER, f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path) == weights(uninterrupted)


def test_two_processes_train_a_shared_init_stage_once(tmp_path):
    typed = [(*SMALL, f"beta={beta}", f"output_dir={tmp_path}") for beta in (0.01, 0.02)]
    processes = [start("train.py", *overrides) for overrides in typed]
    logs = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    assert len(list(tmp_path.glob("train/init-*"))) == 1
    text = "".join(logs)
    assert text.count("init: training in") == 1
    assert text.count("init: reused") == 1


def test_a_job_that_fails_in_a_sweep_leaves_its_traceback_and_the_others_run(tmp_path):
    # A learning rate that no float survives: the loss is not a number after the first step.
    done = run_command("train.py", "-m", *SMALL, "phase=init", "init.attacker_lr=1e30,1e-3",
                       f"output_dir={tmp_path}")  # fmt: skip
    assert done.returncode == 2
    states = [json.loads(path.read_text()) for path in tmp_path.glob("train/*/init/status.json")]
    failed, finished = sorted(states, key=lambda status: status["state"])
    assert (failed["state"], finished["state"]) == ("failed", "finished")
    assert "Traceback" in failed["traceback"]
    log = "".join(path.read_text() for path in tmp_path.glob("log/*/0/train.log"))
    assert "training diverged" in log


def test_a_forced_stage_is_trained_again_to_the_same_bits(uninterrupted):
    before = weights(uninterrupted, "adversarial")
    done = run_command("train.py", *LONGER, "phase=adversarial", "reuse=false",
                       f"output_dir={uninterrupted}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "adversarial: epoch 1/8" in done.stderr
    assert weights(uninterrupted, "adversarial") == before


def test_a_killed_suite_goes_on_and_attacks_no_image_twice(tmp_path):
    # Two parts of the local search, so that it can be killed between them.
    typed = (*SMALL, "data.test_size=200", "defense=classic", f"output_dir={tmp_path}")
    assert run_command("train.py", *typed).returncode == 0
    run = tmp_path / "latest/classic"
    attack = (f"run={run}", "suite=table1", "suite.attacks.local_search.R=20", "logger=csv")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_command("evaluate.py", *attack, f"output_dir={whole}").returncode == 0

    process = start("evaluate.py", *attack, f"output_dir={parts}")
    wait_for(lambda: list(parts.glob("eval/*/local_search-*/part-0000000.parquet")), process)
    process.kill()
    process.wait()
    (first,) = parts.glob("eval/*/local_search-*/part-0000000.parquet")
    before = first.stat().st_mtime_ns
    finished = len(list(parts.glob("eval/*/*/result.json")))
    assert finished > 0

    process = start("evaluate.py", *attack, f"output_dir={parts}")
    wait_for(lambda: list(parts.glob("eval/*/local_search-*/part-0000100.parquet")), process)
    assert not first.exists() or first.stat().st_mtime_ns == before
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stderr.count("reused") >= finished

    records = [sorted(folder.glob("eval/*/*/records.parquet")) for folder in (whole, parts)]
    assert len(records[0]) == len(records[1]) == 11
    for one, other in zip(*records, strict=True):
        assert one.parent.name == other.parent.name
        assert one.read_bytes() == other.read_bytes()


def test_random_kills_lose_and_change_nothing(tmp_path):
    """The short form of `python tests/commands/soak.py --kills 50`."""
    assert soak(3, 1, tmp_path) == []
