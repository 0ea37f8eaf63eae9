import os
import subprocess
import sys
from pathlib import Path

# One thread is faster on networks as small as these, and leaves the machine's others alone. Before
# torch is imported; the commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Small enough for seconds, large enough that every stage has more than one epoch.
SMALL = (
    "data=synthetic",
    "data.train_size=640",
    "data.test_size=100",
    "init.epochs=2",
    "adversarial.epochs=2",
    "classifier.epochs=2",
    "logger=csv",
)


_HANGS = 600  # seconds, after which a command is taken to hang


def run_command(
    script: str, *overrides: str, **environment: str | None
) -> "subprocess.CompletedProcess[str]":
    """Run a real command in a process of its own, as a user would; None unsets a variable."""
    variables = {**os.environ, "WANDB_MODE": "offline", **environment}
    return subprocess.run(
        [sys.executable, str(ROOT / "src" / script), *overrides],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={name: value for name, value in variables.items() if value is not None},
        timeout=_HANGS,
    )


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder with a trained funn and classic, made by the real command."""
    folder = tmp_path_factory.mktemp("outputs")
    for defense in ("funn", "classic"):
        done = run_command("train.py", *SMALL, f"defense={defense}", f"output_dir={folder}")
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An outputs folder that a test writes."""
    return tmp_path
