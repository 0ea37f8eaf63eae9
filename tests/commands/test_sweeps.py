"""The sweep presets, in several processes."""

import json

import pytest
from conftest import SMALL, run_command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "games", "inits"), [("beta_sweep", 6, 1), ("lr_sweep", 4, 1), ("seeds", 3, 3)]
)
def test_presets_train_every_job_and_share_what_they_can(tmp_path, preset, games, inits):
    done = run_command("train.py", *SMALL, f"experiment={preset}", f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("train/init-*"))) == inits
    played = {path.resolve() for path in tmp_path.glob("train/*/adversarial")}
    assert len(played) == games
    for folder in played:
        assert json.loads((folder / "status.json").read_text())["state"] == "finished"
