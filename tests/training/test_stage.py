from functools import partial
from pathlib import Path

import pytest

from funn.artifacts.files import read_json, replace_file, sha256, write_json
from funn.artifacts.folder import StageFolder
from funn.errors import UserError
from funn.method.classifier import ClassifierStage
from funn.method.phases import Adversarial, Init
from funn.training.fingerprint import fingerprint
from funn.training.stage import stage_facts

CONFIG = {
    "seed": 0,
    "data": {"_target_": "funn.data.synthetic.SyntheticDigits", "train_size": 60000},
    "beta": 0.01,
    "gamma": 5.0,
    "init": {"epochs": 9},
    "adversarial": {"epochs": 31},
    "classifier": {"epochs": 20},
    "model": {"features": 64},
    "attacker": {"noise": 16},
    "head": {"hidden": [64]},
    "objective": {"attacker": {"_target_": "a"}, "defender_input": "clean"},
    "defense": {"stages": {name: {} for name in ("init", "adversarial", "classifier")}},
}
CHECKSUMS = {"train": "1", "val": "2"}
NAMES = {Init: "init", Adversarial: "adversarial", ClassifierStage: "classifier"}


def changed(**changes):
    return CONFIG | changes


def of(kind, config=CONFIG, data=CHECKSUMS, parent="parent"):
    return fingerprint(stage_facts(kind(), NAMES[kind], config, data, parent))


@pytest.mark.parametrize(
    ("kind", "change", "depends"),
    [
        (Init, {"init": {"epochs": 3}}, True),
        (Init, {"model": {"features": 32}}, True),
        (Init, {"attacker": {"noise": 8}}, True),
        (Init, {"seed": 1}, True),
        (Init, {"beta": 0.02}, False),  # so that a sweep of betas shares its init stage
        (Init, {"gamma": 1.0}, False),
        (Init, {"objective": {"attacker": {"_target_": "b"}, "defender_input": "clean"}}, False),
        (Init, {"objective": {"attacker": {"_target_": "a"}, "defender_input": "attacked"}}, True),
        (Init, {"adversarial": {"epochs": 1}}, False),
        (Adversarial, {"beta": 0.02}, True),
        (Adversarial, {"gamma": 1.0}, True),
        (Adversarial, {"adversarial": {"epochs": 1}}, True),
        (Adversarial, {"classifier": {"epochs": 1}}, False),
        (ClassifierStage, {"classifier": {"epochs": 1}}, True),
        (ClassifierStage, {"head": {"hidden": [8]}}, True),
        (ClassifierStage, {"beta": 0.02}, False),  # its parent's digest tells
        (ClassifierStage, {"seed": 1}, True),
        (Init, {"defense": {"stages": {"init": {"option": 1}}}}, True),
        (Init, {"defense": {"stages": {"init": {}, "classifier": {"option": 1}}}}, False),
    ],
)
def test_a_fingerprint_depends_on_what_the_stage_reads(kind, change, depends):
    assert (of(kind) != of(kind, changed(**change))) == depends


@pytest.mark.parametrize("kind", NAMES)
def test_a_fingerprint_depends_on_data_and_parent(kind):
    train, val = ({**CHECKSUMS, name: "other"} for name in CHECKSUMS)
    changed = {of(kind, data=train), of(kind, data=val), of(kind, parent="other")}
    assert len(changed | {of(kind), of(kind, parent=None)}) == 5


@pytest.fixture
def folder(tmp_path):
    stage = StageFolder("init", "abc", tmp_path / "init")
    replace_file(stage.checkpoint, b"weights")
    write_json(
        stage.path / "result.json",
        {"stage": "init", "checkpoint_sha256": sha256(stage.checkpoint)},
    )
    return stage


def test_a_stage_is_finished_when_its_status_says_so(folder):
    assert folder.result() is None
    folder.write_status("running")
    assert folder.result() is None
    folder.write_status("finished")
    assert folder.result() is not None


def test_a_checkpoint_that_changed_is_refused(folder):
    folder.write_status("finished")
    replace_file(folder.checkpoint, b"weightz")
    with pytest.raises(UserError, match="damaged or was changed"):
        folder.result()


def test_a_finished_stage_whose_checkpoint_is_gone_is_refused(folder):
    folder.write_status("finished")
    folder.checkpoint.unlink()
    with pytest.raises(UserError, match="damaged or was changed"):
        folder.result()


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_another_process_has_finished_stays_finished(folder, error):
    def work():
        with folder.reporting():
            folder.write_status("finished")  # by another process, meanwhile
            raise error

    with pytest.raises(type(error)):
        work()
    assert folder.state() == "finished"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("no"), "failed"),
        (SystemExit(143), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_the_status_tells_how_a_stage_ended(folder, error, state):
    seen = []

    def work():
        folder.write_status("running")
        with folder.reporting():
            seen.append(read_json(folder.path / "status.json")["state"])
            raise error

    with pytest.raises(type(error)):
        work()
    assert seen == ["running"]
    status = read_json(folder.path / "status.json")
    assert status["state"] == state
    assert ("ValueError: no" in status.get("traceback", "")) == (state == "failed")


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file"
    replace_file(path, b"old")
    monkeypatch.setattr(Path, "replace", partial(fail))
    with pytest.raises(OSError, match="disk"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_nothing_is_written_outside_of_the_folder(tmp_path, monkeypatch):
    """A rename from elsewhere may cross file systems, which is no rename."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def fail(*arguments):
    raise OSError("disk")
