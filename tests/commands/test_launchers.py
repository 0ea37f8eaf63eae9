"""The jobs of a sweep on other launchers than Hydra's own: the same stages, bit for bit."""

import pytest
from conftest import SMALL, run_command

from funn.artifacts.files import read_json, sha256

pytestmark = pytest.mark.slow

SWEEP = ("-m", *SMALL, "phase=init", "seed=0,1")


def initial(folder):
    """The SHA-256 of the init stage of each seed."""
    return {
        read_json(path.parent / "result.json")["seed"]: sha256(path)
        for path in folder.glob("train/init-*/init/model.ckpt")
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("basic")
    assert run_command("train.py", *SWEEP, f"output_dir={folder}").returncode == 0
    return initial(folder)


@pytest.mark.parametrize(
    "launcher",
    [
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("experiment=parallel",),
        ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"),
    ],
)
def test_a_launcher_trains_what_one_job_after_the_other_does(expected, tmp_path, launcher):
    done = run_command("train.py", *SWEEP, *launcher, f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert set(expected) == {0, 1}
    assert initial(tmp_path) == expected
    # Typed again, nothing is trained: what a job that is started anew finds.
    before = [path.stat().st_mtime_ns for path in tmp_path.glob("train/*/*/model.ckpt")]
    assert run_command("train.py", *SWEEP, *launcher, f"output_dir={tmp_path}").returncode == 0
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("train/*/*/model.ckpt")] == before


def test_a_job_that_fails_elsewhere_fails_the_command(tmp_path):
    done = run_command(
        "train.py", "-m", *SMALL, "phase=init", "init.attacker_lr=1e30,1e-3",
        "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode != 0
    states = {read_json(path)["state"] for path in tmp_path.glob("train/init-*/init/status.json")}
    assert states == {"failed", "finished"}
