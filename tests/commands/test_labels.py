"""What training prints says what is trained, and what `outputs/latest` points to."""

import pytest
from conftest import SMALL, run_command

TINY = (*SMALL, "data.train_size=200", "init.epochs=1", "adversarial.epochs=1",
        "classifier.epochs=1")  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ((), "funn (data=synthetic)"),
        (("model=wide",), "funn (model=wide, data=synthetic)"),
        (("defense=funn_pgd", "phase=init"), "funn_pgd (data=synthetic)"),
    ],
)
def test_every_line_of_a_stage_names_what_is_not_the_defences_own(tmp_path, typed, label):
    command = (*TINY, *typed, f"output_dir={tmp_path}")
    stages = ["init"] if "phase=init" in typed else ["init", "adversarial", "classifier"]
    done, again = run_command("train.py", *command), run_command("train.py", *command)
    assert done.returncode == again.returncode == 0, done.stderr + again.stderr
    for stage in stages:
        assert f"{label} {stage}: training in {tmp_path}" in done.stderr
        assert f"{label} {stage}: epoch 1/1, " in done.stderr
        assert f"{label} {stage}: reused {tmp_path}" in again.stderr
    latest = tmp_path / "latest/funn"
    if len(stages) == 1:
        assert not latest.exists()
        assert "is now" not in done.stderr + again.stderr
    else:
        told = f"{latest} is now {latest.resolve().name}: what was trained last with defense=funn"
        assert done.stderr.splitlines()[-1] == again.stderr.splitlines()[-1] == told
    assert done.stdout == again.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
def test_latest_is_what_was_trained_last_even_if_it_was_reused(tmp_path):
    narrow, wide = ((*TINY, *more, f"output_dir={tmp_path}") for more in ((), ("model=wide",)))
    runs = []
    for command in (narrow, wide, narrow):
        done = run_command("train.py", *command)
        assert done.returncode == 0, done.stderr
        run = (tmp_path / "latest/funn").resolve()
        assert done.stdout == f"{run}\n"
        assert f"latest/funn is now {run.name}: " in done.stderr
        runs.append(run)
    assert runs[0] == runs[2] != runs[1]
