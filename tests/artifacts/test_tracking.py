"""W&B runs, read back from the offline files."""

import json
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


# No mode is set and nobody is logged in.
def nobody(home):
    return {"WANDB_MODE": None, "WANDB_API_KEY": None, "HOME": str(home)}


def test_a_failed_and_a_finished_job_are_two_runs_in_their_states(tmp_path):
    sweep = (*WITH_WANDB, "phase=init", "init.attacker_lr=1e30,1e-3", f"output_dir={tmp_path}")
    done = run_command("train.py", "-m", *sweep, **nobody(tmp_path))
    assert done.returncode == 2, done.stderr
    failed, finished = runs(tmp_path)
    assert (failed["state"], failed["exit_code"]) == ("failed", 1)
    assert (finished["state"], finished["exit_code"]) == ("finished", 0)
    assert failed["config"]["init"]["attacker_lr"] == 1e30


def test_each_stage_and_evaluation_is_one_run_and_a_reused_stage_none(tmp_path):
    typed = (*WITH_WANDB, f"output_dir={tmp_path}")
    assert run_command("train.py", *typed, **nobody(tmp_path)).returncode == 0
    stages = runs(tmp_path)
    assert [run["name"].split("-")[2] for run in stages] == ["init", "adversarial", "classifier"]
    assert stages[1]["config"]["beta"] == 0.01
    result = json.loads((tmp_path / "latest/funn/adversarial/result.json").read_text())
    for name in ("attacker_loss", "slack", "defender_clean"):
        assert stages[1]["summary"][f"epoch/{name}"] == pytest.approx(result["metrics"][name])
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))

    assert run_command("train.py", *typed, **nobody(tmp_path)).returncode == 0
    assert len(runs(tmp_path)) == 3

    attack = ("attack=fgsm", "images=50", f"run={tmp_path}/latest/funn", f"output_dir={tmp_path}")
    done = run_command("evaluate.py", *attack, **nobody(tmp_path))
    assert done.returncode == 0, done.stderr
    evaluation = runs(tmp_path)[3]
    assert evaluation["state"] == "finished"
    assert evaluation["summary"]["fgsm/strict/images"] == 50


@contextmanager
def server(kind):
    """An address where a W&B server refuses, accepts and never answers, or hangs up at once."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if kind == "refuses":
            yield address  # nobody listens
            return
        listening.listen(64)
        kept = []

        def serve():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                if kind == "hangs":
                    kept.append(connection)
                else:
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield address
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", ["refuses", "hangs", "drops"])
def test_a_server_that_does_not_answer_costs_some_time_and_nothing_else(tmp_path, kind):
    with server(kind) as address:
        done = run_command(
            "train.py", *WITH_WANDB, "phase=init", "logger.mode=online", f"output_dir={tmp_path}",
            WANDB_MODE=None, WANDB_API_KEY="0" * 40, WANDB_BASE_URL=address, HOME=str(tmp_path),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "W&B is out of reach" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = runs(tmp_path)
    assert run["state"] == "finished"
    assert "epoch/defender_loss" in run["summary"]


class OpensOneRun(BaseHTTPRequestHandler):
    """A W&B server that lets a run open, and is gone from then on."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        run = {
            "id": "r", "name": asked["variables"]["name"], "displayName": "r", "config": "{}",
            "historyLineCount": 0,
            "project": {"id": "p", "name": "funn", "entity": {"id": "e", "name": "me"}},
        }  # fmt: skip
        answer = json.dumps({"data": {"upsertBucket": {"bucket": run, "inserted": True}}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        threading.Thread(target=self.server.shutdown, daemon=True).start()

    def log_message(self, *arguments):
        pass


def test_a_server_that_falls_silent_later_costs_a_minute_and_nothing_else(tmp_path):
    gone = ThreadingHTTPServer(("127.0.0.1", 0), OpensOneRun)

    def serve():
        gone.serve_forever()
        gone.server_close()

    threading.Thread(target=serve, daemon=True).start()
    done = run_command(
        "train.py", *WITH_WANDB, "phase=init", "logger.mode=online", f"output_dir={tmp_path}",
        WANDB_MODE=None, WANDB_API_KEY="0" * 40, HOME=str(tmp_path),
        WANDB_BASE_URL=f"http://127.0.0.1:{gone.server_port}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    sends_it = re.search(r"W&B has not taken all of .*`wandb sync (\S+)` sends it", done.stderr)
    assert list(Path(sends_it[1]).glob("*.wandb"))
    (result,) = tmp_path.glob("train/init-*/init/result.json")
    assert json.loads(result.read_text())["metrics"]["defender_loss"] > 0
