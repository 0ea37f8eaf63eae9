"""Full disks, damaged state, folders that cannot be written, classifiers that misbehave."""

import json
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL, run_command
from test_faults import LONGER, start, wait_for

from funn.artifacts.files import replace_file, sha256

ATTACK = ("attack=deepfool_l2", "logger=csv")


def run_with_full_disk(kilobytes, script, *overrides):
    """Run a command that can write no file larger than that: what a full disk does, but alone."""
    command = shlex.join([sys.executable, str(ROOT / "src" / script), *overrides])
    return subprocess.run(
        ["bash", "-c", f"ulimit -f {kilobytes}; exec {command}"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip


def refusal(done):
    """The one line that a command ended with."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "model.ckpt"
    replace_file(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        replace_file(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_nothing_but_the_epoch(outputs, tmp_path):
    typed = (*SMALL, f"output_dir={tmp_path}")
    line = refusal(run_with_full_disk(500, "train.py", *typed))
    assert "last.ckpt: File too large" in line
    (status,) = tmp_path.glob("train/*/init/status.json")
    assert json.loads(status.read_text())["state"] == "failed"
    assert not [path for path in status.parent.iterdir() if path.name.startswith(".last")]
    assert run_command("train.py", *typed).returncode == 0
    checkpoints = [folder / "latest/funn/classifier/model.ckpt" for folder in (outputs, tmp_path)]
    assert sha256(checkpoints[0]) == sha256(checkpoints[1])

    attack = (*ATTACK, f"run={tmp_path / 'latest/funn'}", f"output_dir={tmp_path}")
    line = refusal(run_with_full_disk(4, "evaluate.py", *attack))
    assert "File too large" in line
    assert not list(tmp_path.glob("eval/*/*/records.parquet"))
    assert run_command("evaluate.py", *attack).returncode == 0
    assert list(tmp_path.glob("eval/*/*/records.parquet"))


@pytest.mark.slow
def test_a_damaged_resume_file_is_never_gone_on_from(tmp_path):
    process = start("train.py", *LONGER, f"output_dir={tmp_path}")
    wait_for(lambda: list(tmp_path.glob("train/funn-*/adversarial/last.ckpt")), process)
    process.kill()
    process.wait()
    (resume,) = tmp_path.glob("train/funn-*/adversarial/last.ckpt")
    content = bytearray(resume.read_bytes())
    content[len(content) // 2] ^= 1
    resume.write_bytes(content)
    line = refusal(run_command("train.py", *LONGER, f"output_dir={tmp_path}"))
    assert f"{resume} is damaged" in line
    assert "delete" in line
    assert resume.read_bytes() == content


def test_outputs_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_command("train.py", *SMALL, f"output_dir={tmp_path / 'file' / 'outputs'}")
    assert "Not a directory" in refusal(done)
    assert "output_dir=" in refusal(done)


VICTIMS = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.layer = nn.Linear(784, 10)

    def forward(self, x):
        return self.answer(self.layer(x.flatten(1)))

nan = lambda: Odd(lambda logits: logits * float("nan"))
probabilities = lambda: Odd(lambda logits: logits.softmax(1))
wide = lambda: Odd(lambda logits: logits[:, :, None])
few = lambda: Odd(lambda logits: logits[:, :5])
raising = lambda: Odd(lambda logits: logits @ torch.zeros(3))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "gives outputs that are not finite numbers"),
        ("probabilities", "gives probabilities: return the logits before the softmax"),
        ("wide", "returns (16, 10, 1) for 16 images: return logits (N, classes)"),
        ("few", "gives outputs (16, 5), not (16, 10 classes or more)"),
        ("raising", "cannot classify (16, 1, 28, 28)"),
    ],
)
def test_a_classifier_that_misbehaves(tmp_path, name, message):
    (tmp_path / "odd.py").write_text(VICTIMS)
    done = run_command(
        "evaluate.py", f"victim=odd:{name}", *ATTACK, "data=synthetic", f"output_dir={tmp_path}",
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert message in refusal(done)
    assert not list(tmp_path.glob("eval/*"))
