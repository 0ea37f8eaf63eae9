"""The engine: victims, parts, iterations, any torchattacks attack."""

import copy
import json
import random
import re
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torchattacks
from conftest import run_command
from filelock import FileLock, Timeout
from torch import nn

from funn.attacks import BIM, FGSM, DeepFool, LocalSearch, SinglePixel
from funn.config.schema import Trial
from funn.config.suite import MaskingConfig, Suite
from funn.data.dataset import ImageData
from funn.data.images import Images
from funn.data.synthetic import SyntheticDigits
from funn.errors import UserError
from funn.evaluation import victims
from funn.evaluation.records.metrics import iteration_curve, summarize, within_steps
from funn.evaluation.records.table import read_table
from funn.evaluation.records.verification import float64_verifier
from funn.evaluation.suite import transferred_from
from funn.evaluation.trials.run_attack import attack_batch, predict, run_attack
from funn.evaluation.trials.shards import attack_parts, lock_of, merge, parts
from funn.evaluation.trials.trial import finished, locate_trial, run_trial
from funn.evaluation.victim_checks import check


def summary(table):
    return asdict(summarize(table))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10)).eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return SyntheticDigits(tmp_path_factory.mktemp("data"), 10, 60).test


@pytest.fixture
def labelled(model, images):
    """The images with labels of which the classifier gets every third wrong."""
    labels = predict(model, images.floats(), 60)
    labels[::3] = (labels[::3] + 1) % 10
    return Images(images.images, labels)


def attack_into(folder, attack, images, batch_size=16, **more):
    """Write the parts of an attack on its own model."""
    model = attack.model
    predictions = predict(model, images.floats(), batch_size)
    attack_parts(
        attack, folder, float64_verifier(model), images, predictions, batch_size, "test", **more
    )


def attack_all(attack, folder, images, batch_size=16):
    attack_into(folder, attack, images, batch_size)
    merge(folder, folder / "records.parquet", len(images.labels))
    return read_table(folder / "records.parquet").to_pylist()


def test_clean_errors_are_not_attacked(model, labelled, tmp_path):
    rows = attack_all(DeepFool(model, steps=20), tmp_path, labelled)
    for row in rows:
        wrong = row["index"] % 3 == 0
        assert (row["label"] != row["clean_prediction"]) == wrong
        if wrong:
            assert (row["step"], row["l2"], row["forwards"]) == (0, 0.0, 0)
    assert summary(pa.Table.from_pylist(rows))["attacked"] == 40


@pytest.mark.parametrize(
    ("make", "forwards", "backwards"),
    [
        (lambda model: torchattacks.FGSM(model, eps=0.05), 1, 1),
        (lambda model: torchattacks.BIM(model, eps=0.05, alpha=0.01, steps=7), 7, 7),
    ],
)
def test_any_torchattacks_attack_is_recorded(model, labelled, tmp_path, make, forwards, backwards):
    rows = attack_all(make(model), tmp_path, labelled)
    attacked = [row for row in rows if row["label"] == row["clean_prediction"]]
    assert {row["forwards"] for row in attacked} == {forwards}
    assert {row["backwards"] for row in attacked} == {backwards}
    assert all(row["linf"] <= 0.05 + 1e-6 for row in attacked)
    assert not any(row["blind"] or row["unexplained"] for row in attacked)
    assert any(row["success_verified"] for row in attacked)
    for row in attacked:
        if abs(row["margin"]) > 1e-4:
            assert row["success_tracked"] == row["success_verified"] == (row["margin"] < 0)


def test_an_attack_that_returns_nan_has_no_success(model, labelled, tmp_path):
    class Broken(torchattacks.FGSM):
        def forward(self, images, labels):
            return images * float("nan")

    rows = attack_all(Broken(model), tmp_path, labelled)
    attacked = [row for row in rows if row["label"] == row["clean_prediction"]]
    assert not any(row["success_tracked"] or row["success_verified"] for row in attacked)


def test_damaged_records_are_never_read_as_others(model, labelled, tmp_path):
    attack_all(torchattacks.FGSM(model, eps=0.05), tmp_path, labelled)
    path = tmp_path / "records.parquet"
    whole, table = path.read_bytes(), read_table(path)
    caught = 0
    for place in range(0, len(whole), 41):
        flipped = bytearray(whole)
        flipped[place] ^= 8
        path.write_bytes(flipped)
        with suppress(UserError):
            assert read_table(path).equals(table)  # a byte that no value hangs on
            continue
        caught += 1
    assert caught > 100
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="is damaged: remove"):
        read_table(path)


def test_what_leaves_the_unit_range_is_not_verified(model, labelled, tmp_path):
    class Far(torchattacks.FGSM):
        def forward(self, images, labels):
            return 1 - 9 * images

    rows = attack_all(Far(model), tmp_path, labelled)
    attacked = [row for row in rows if row["label"] == row["clean_prediction"]]
    assert any(row["success_tracked"] for row in attacked)
    assert any(row["margin"] < 0 for row in attacked)
    assert not any(row["success_verified"] for row in attacked)
    assert all(row["unexplained"] == row["success_tracked"] for row in attacked)


@pytest.mark.parametrize("make", [torchattacks.Jitter, torchattacks.Pixle])
def test_a_foreign_attack_draws_the_same_random_numbers_again(model, images, make):
    attack = make(model, **({"eps": 0.1} if make is torchattacks.Jitter else {"max_iterations": 3}))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
        found.append(attack_batch(attack, images.floats()[:8], images.labels[:8]).adversarials)
        assert np.array_equal(before[0], np.random.get_state()[1])
        assert before[1] == random.getstate()
        assert torch.equal(before[2], torch.get_rng_state())
    assert torch.equal(*found)


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_any_torchattacks_attack_leaves_the_model_as_found(images, around):
    """Torchattacks alone puts all modules into one mode, and draws from the global state."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Tanh()).train()
    model[1].eval()
    attack = torchattacks.PGD(model, eps=0.1, steps=2)
    before = torch.get_rng_state()
    with around():
        found = attack_batch(attack, images.floats(), images.labels)
    assert found.adversarials.shape == images.floats().shape
    assert model.training
    assert model[2].training
    assert not model[1].training
    assert model[1].weight.requires_grad
    assert model[1].weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)


def test_what_an_attack_returns_is_judged_in_eval_mode(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Dropout(0.5)).train()
    modes = []
    model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    before = torch.get_rng_state()
    attack_batch(torchattacks.FGSM(model), images.floats(), images.labels)
    assert modes == [False, False]
    assert torch.equal(torch.get_rng_state(), before)


def test_what_fools_another_classifier_is_shown_to_this_one(model, labelled, tmp_path):
    """An oblivious attacker: successes are tracked against one classifier, verified by another."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[3].weight += 0.1 * torch.randn(10, 20, generator=torch.Generator().manual_seed(1))
    images, labels = labelled, labelled.labels
    attack = DeepFool(other, steps=50)
    mine, theirs = predict(model, images.floats(), 60), predict(other, images.floats(), 60)
    attack_parts(attack, tmp_path, float64_verifier(model), images, mine, 16, "test", source=other)
    merge(tmp_path, tmp_path / "records.parquet", len(labels))
    table = read_table(tmp_path / "records.parquet")
    both = (mine == labels) & (theirs == labels)
    figures = summary(table)
    assert figures["attacked"] == both.sum().item() > 5
    assert figures["clean_accuracy"] == (mine == labels).double().mean().item()
    assert figures["success_rate"] == 1
    assert figures["success_rate_verified"] < 1
    assert not any(table["rejected"].to_pylist())
    for row in table.to_pylist():
        if row["source_prediction"] != row["label"]:
            assert row["l2"] == 0


ATTACKS = {
    "deepfool, strict": lambda model: DeepFool(model, steps=50),
    "deepfool, foolbox1": lambda model: DeepFool(model, steps=50, protocol="foolbox1"),
    "deepfool linf": lambda model: DeepFool(model, "linf", steps=50, protocol="foolbox1"),
    "fgsm search": lambda model: FGSM(model, eps=0.1, protocol="foolbox1"),
    "bim": lambda model: BIM(model, eps=0.1, alpha=0.01),
    "single pixel": SinglePixel,
    "local search": lambda model: LocalSearch(model, R=10),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_batch_size_and_order_change_nothing_but_what_rounding_decides(
    model, labelled, tmp_path, name
):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = Images(labelled.images[order], labelled.labels[order])
    attack = ATTACKS[name](model)
    base = attack_all(attack, tmp_path / "base", labelled, batch_size=60)
    small = attack_all(attack, tmp_path / "small", labelled, batch_size=7)
    mixed = attack_all(attack, tmp_path / "mixed", shuffled, batch_size=16)
    back = {int(order[row["index"]]): row for row in mixed}
    excused = 0
    for row, other, moved in zip(base, small, [back[n] for n in range(60)], strict=True):
        excused += row["closest"] < 1e-4
        for twin in (other, moved):
            assert row["input_hash"] == twin["input_hash"]
            if min(row["closest"], twin["closest"]) >= 1e-4:
                assert row["success_tracked"] == twin["success_tracked"]
                assert row["success_verified"] == twin["success_verified"]
                assert row["l2"] == pytest.approx(twin["l2"], rel=1e-4)
    assert summary(pa.Table.from_pylist(base))["rounding_decided"] == excused
    if name.startswith("deepfool, foolbox1"):
        assert excused  # it creeps to the boundary: rounding decides its last step
    if name in ("bim", "single pixel", "local search"):
        assert excused <= 6


def test_parts_that_are_there_are_not_attacked_again(model, labelled, tmp_path, monkeypatch):
    attack = DeepFool(model, steps=20)
    attack.images_per_part = 20
    whole = attack_all(attack, tmp_path / "whole", labelled)
    attack_into(tmp_path / "parts", attack, labelled)
    kept = parts(tmp_path / "parts")
    assert len(kept) == 3
    kept[1].unlink()

    seen = []
    monkeypatch.setattr(
        "funn.evaluation.trials.shards.run_attack",
        lambda *arguments: seen.append(len(arguments[1])) or run_attack(*arguments),
    )
    again = attack_all(attack, tmp_path / "parts", labelled)
    assert seen == [20]
    assert again == whole


def test_a_part_that_another_process_attacks_comes_last(model, labelled, tmp_path, monkeypatch):
    """And is attacked here after all if that process ends without it."""
    attack = DeepFool(model, steps=20)
    attack.images_per_part = 20
    whole = attack_all(attack, tmp_path / "whole", labelled)
    folder = tmp_path / "shared"
    folder.mkdir()
    other = FileLock(lock_of(folder / "part-0000000.parquet"))
    other.acquire()
    order = []

    def seen(label, x, labels, *rest):
        order.append(labels[0].item())
        if len(order) == 2:
            other.release()
        return run_attack(label, x, labels, *rest)

    monkeypatch.setattr("funn.evaluation.trials.shards.run_attack", seen)
    assert attack_all(attack, folder, labelled) == whole
    assert order == [labelled.labels[first].item() for first in (20, 40, 0)]


def test_what_another_process_has_merged_is_left(model, labelled, tmp_path):
    attack_into(tmp_path, DeepFool(model), labelled, finished=lambda: True)
    assert not parts(tmp_path)


def test_only_one_process_sums_up(model, labelled, tmp_path, monkeypatch):
    """Under the folder's lock; the parts are gone when another comes to it."""
    trial = Trial("fgsm", "strict", None, {"_target_": "funn.attacks.FGSM", "eps": 0.1})
    victim = victims.Victim("mine", model, "", None, {"source": None}, labelled.floats(16))
    predictions = predict(model, labelled.floats(), 60)
    config = SimpleNamespace(reuse=True, batch_size=60, begins=0.0, suite=None, resolved=dict)
    folder = locate_trial(tmp_path, trial, victim, labelled)
    begun, sums = [], []

    def attacked(*arguments):
        begun.append(1)
        attack_parts(*arguments)
        if len(begun) == 1:
            # Another process is first.
            run_trial(trial, folder, config, victim, labelled, predictions, 60)

    def merged(*arguments):
        sums.append(1)
        with pytest.raises(Timeout):
            FileLock(folder.path / ".lock").acquire(timeout=0)
        return merge(*arguments)

    monkeypatch.setattr("funn.evaluation.trials.trial.attack_parts", attacked)
    monkeypatch.setattr("funn.evaluation.trials.trial.merge", merged)
    run_trial(trial, folder, config, victim, labelled, predictions, 60)
    assert (len(begun), len(sums)) == (2, 1)
    assert finished(folder)


def test_a_part_that_vanished_is_missed(model, labelled, tmp_path):
    attack = DeepFool(model, steps=1)
    attack.images_per_part = 20
    attack_into(tmp_path, attack, labelled)
    parts(tmp_path)[1].unlink()
    with pytest.raises(UserError, match="type the command again"):
        merge(tmp_path, tmp_path / "records.parquet", 60)
    assert not (tmp_path / "records.parquet").exists()


def test_fewer_iterations_are_read_off_a_longer_run(model, labelled, tmp_path):
    def table(steps):
        attack_all(
            DeepFool(model, steps=steps, protocol="foolbox1"), tmp_path / str(steps), labelled
        )
        return read_table(tmp_path / str(steps) / "records.parquet")

    long = table(100)
    for steps in (1, 3, 10):
        short, read_off = summary(table(steps)), summary(within_steps(long, steps))
        for name in ("success_rate", "success_rate_verified", "noise_level", "median_l2"):
            assert read_off[name] == short[name], (steps, name)
    curve = iteration_curve(long)
    assert curve["tracked"] == sorted(curve["tracked"])
    assert curve["tracked"][-1] == summary(long)["success_rate"]
    right = np.array(long["label"]) == np.array(long["clean_prediction"])
    assert set(curve["steps"]) == set(np.array(long["step"])[right & (np.array(long["step"]) >= 0)])


VICTIM = """
import torch
from torch import nn
torch.manual_seed(0)
linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
def make():
    return linear
def softmax():
    return nn.Sequential(linear, nn.Softmax(1))
def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
class First(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear
    def forward(self, x):
        return self.linear(x[:1])
class Single(nn.Module):
    def forward(self, x):
        return x.flatten(1) @ torch.ones(784, 10)
def text():
    return "no module"
"""


@pytest.fixture
def victim_module(tmp_path, monkeypatch):
    (tmp_path / "my_victim.py").write_text(VICTIM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_victim", raising=False)
    return tmp_path


class Noise(ImageData):
    """Twenty images of noise, of any shape, in ten classes."""

    def __init__(self, shape=(1, 28, 28)):
        super().__init__(Path())
        self.shape = shape

    def load(self):
        draw = torch.Generator().manual_seed(0)
        images = (256 * torch.rand(20, *self.shape, generator=draw)).byte()
        return Images(images, torch.arange(20) % 10), Images(images, torch.arange(20) % 10)


def test_a_users_classifier(victim_module):
    data = Noise()
    made, module = (victims.own(f"my_victim:{name}", data) for name in ("make", "linear"))
    assert made.model is module.model
    assert made.digest == module.digest
    assert re.fullmatch("my_victim-make-[0-9a-f]{10}", made.name)
    assert made.title == "my_victim:make"
    assert not made.model.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_victim", "package.module:callable"),
        ("my_victim:nothing", "cannot be imported"),
        ("no_such_module:make", "cannot be imported"),
        ("my_victim:text", "not a torch.nn.Module"),
    ],
)
def test_what_is_no_classifier(victim_module, name, message):
    with pytest.raises(UserError, match=message):
        victims.own(name, Noise())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("softmax", (1, 28, 28), "probabilities"),
        ("three", (1, 28, 28), r"outputs \(16, 3\), not \(16, 10 classes or more\)"),
        ("First", (1, 28, 28), r"returns \(1, 10\) for 16 images"),
        ("Single", (1, 28, 28), "cannot classify"),  # not in float64
        ("linear", (3, 32, 32), "cannot classify"),
    ],
)
def test_what_cannot_be_attacked(victim_module, name, shape, message):
    with pytest.raises(UserError, match=message):
        check(victims.own(f"my_victim:{name}", Noise(shape)), Noise(shape))


def test_a_users_classifier_from_the_command_line(victim_module):
    typed = ("victim=my_victim:make", "suite=quick", "data=synthetic", "images=30", "logger=csv")
    done = run_command(
        "evaluate.py", *typed, f"output_dir={victim_module}", PYTHONPATH=str(victim_module)
    )
    assert done.returncode == 0, done.stderr
    results = [
        json.loads(path.read_text())
        for path in victim_module.glob("eval/my_victim-make-*/*/result.json")
    ]
    attacks = [result for result in results if "study" not in result]
    assert {result["attack"] for result in attacks} == {
        "fgsm",
        "bim",
        "deepfool_l2",
        "deepfool_linf",
    }
    assert {result["images"] for result in attacks} == {30}
    assert {result["study"] for result in results if result not in attacks} == {"gradients"}
    assert {result["defense"] for result in results} == {"my_victim:make"}
    assert {result["data"]["name"] for result in results} == {"SyntheticDigits"}


def test_attacks_of_one_suite_may_take_different_numbers_of_images(victim_module):
    left_out = ("deepfool_l2", "deepfool_linf", "bim", "single_pixel")
    done = run_command(
        "evaluate.py", "victim=my_victim:make", "suite=table1", "data=synthetic", "logger=csv",
        "data.train_size=20", "data.test_size=30", "suite.attacks.local_search.images=12",
        "suite.attacks.local_search.R=2", *(f"~suite.attacks.{name}" for name in left_out),
        f"output_dir={victim_module}", PYTHONPATH=str(victim_module),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    paths = victim_module.glob("eval/*/*/records.parquet")
    rows = {path.parent.name.rpartition("-")[0]: read_table(path).to_pylist() for path in paths}
    assert {name: len(table) for name, table in rows.items()} == {
        "fgsm-strict": 30, "fgsm-foolbox1": 30,
        "local_search-strict": 12, "local_search-foolbox1": 12,
    }  # fmt: skip
    clean = ("input_hash", "label", "clean_prediction", "source_prediction")
    for number, row in enumerate(rows["local_search-strict"]):
        assert all(row[name] == rows["fgsm-strict"][number][name] for name in clean)


def test_a_suite_that_examines_a_classifier_has_no_other_source():
    bare = victims.Victim("a", nn.Identity(), "", None, {}, torch.zeros(1, 1, 2, 2))
    victim = replace(bare, source=bare)
    assert transferred_from(SimpleNamespace(suite=Suite()), victim, Noise()) is None
    with pytest.raises(UserError, match="leave out source="):
        transferred_from(SimpleNamespace(suite=Suite(masking=MaskingConfig(True))), victim, Noise())


def test_logits_that_are_not_finite_are_a_wrong_answer():
    """torch's argmax takes NaN for the largest: label 0 would be right."""

    class Failing(nn.Module):
        def forward(self, x):
            logits = torch.zeros(len(x), 10)
            logits[:, 0] = 1
            logits[::2, 3] = float("nan")
            logits[1::4, 3] = float("inf")
            return logits

    classes = predict(Failing(), torch.zeros(8, 1, 2, 2), 8)
    assert classes.tolist() == [-1, -1, -1, 0, -1, -1, -1, 0]
