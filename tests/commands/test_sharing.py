"""Jobs of one evaluation that share its images: nothing is done twice, lost or changed."""

import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_command
from test_robust_accuracy import LINEAR

from funn.evaluation.records.table import read_table

ATTACK = (
    "victim=mine:linear", "attack=square_l2", "attack.eps=0.2", "attack.queries=60",
    "data=synthetic", "data.test_size=1100", "data.train_size=10", "logger=csv",
)  # fmt: skip


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_a_share_that_is_none_is_refused(shard):
    done = run_command("evaluate.py", *ATTACK, f"shard={shard}")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"error: shard={shard} must be i/n with i from 1 to n, e.g. shard=1/4"
    )


@pytest.mark.slow
def test_jobs_that_share_an_attack_write_what_one_does(tmp_path):
    (tmp_path / "mine.py").write_text(LINEAR)
    alone = run_command(
        "evaluate.py", *ATTACK, f"output_dir={tmp_path / 'one'}", PYTHONPATH=str(tmp_path)
    )
    assert alone.returncode == 0, alone.stderr
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "src/evaluate.py"), *ATTACK]
    jobs = [
        subprocess.Popen(
            [*command, f"output_dir={tmp_path / 'three'}", f"shard={number}/3"],
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in (1, 2, 3)
    ]  # fmt: skip
    deadline = time.monotonic() + 300
    while not list((tmp_path / "three").glob("eval/*/*/part-*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    jobs[1].kill()  # in the middle of a part, which another job then attacks
    for job in (jobs[0], jobs[2]):
        output, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors
        (root,) = (tmp_path / "three/eval").iterdir()
        assert root.name.startswith("mine-linear-")
        assert output.strip().splitlines()[-1] == str(root)
    (expected,) = (tmp_path / "one").glob("eval/*/*/records.parquet")
    (found,) = (tmp_path / "three").glob("eval/*/*/records.parquet")
    assert read_table(found).equals(read_table(expected))
    left = {path.name for path in found.parent.iterdir()}
    assert not [name for name in left if name.startswith("part-")]
