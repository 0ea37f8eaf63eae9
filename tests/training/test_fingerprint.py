"""Whatever code a result comes from is in its fingerprint; where that lies is not."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL, run_command

from funn.training.code_behind import code_behind, defining_module, forget_code, placeless, targets

# Run in a process of its own, on a copy of the package: edits one module after the other.
EACH_MODULE = """
import json, sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
import torch
from funn.config.build import build
from funn.training.code_behind import code_behind, forget_code
from funn.data.images import Images
from funn.training.fingerprint import fingerprint
from funn.config.schema import Trial
from funn.training.stage import stage_facts
from funn.evaluation.trials.trial import trial_facts

def facts(kind, name, settings):
    forget_code()
    if kind == "stage":
        stage = build(settings["defense"]["stages"]["it"])
        return stage_facts(stage, "it", settings, {"train": "a"}, "parent")
    test = Images(torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64))
    trial = Trial("attack", "strict", None, settings)
    return trial_facts(trial, SimpleNamespace(digest="a"), test)

def modules(what):
    found = {}
    original = code_behind
    import funn.training.stage, funn.evaluation.trials.trial
    def spy(roots):
        code = original(roots)
        found.update(code.modules)
        return code
    funn.training.stage.code_behind = funn.evaluation.trials.trial.code_behind = spy
    facts(*what)
    funn.training.stage.code_behind = funn.evaluation.trials.trial.code_behind = original
    return sorted(found)

def each_module(what):
    before = fingerprint(facts(*what))
    same, seen = [], modules(what)
    for module in seen:
        path = Path(find_spec(module).origin)
        text = path.read_text()
        path.write_text(text + "\\n_ONE_LINE_MORE = 1\\n")
        if fingerprint(facts(*what)) == before:
            same.append(module)
        path.write_text("# a comment\\n" + text)
    if fingerprint(facts(*what)) != before:
        same.append("a comment in each of them")
    return {"seen": seen, "same": same}

print(json.dumps({what[1]: each_module(what) for what in json.loads(sys.argv[1])}))
"""


STAGES = {
    "funn.method.phases.Adversarial": {
        "funn.method.game",
        "funn.method.objectives",
        "funn.training.fit",
        "funn.training.stage",
    },
    "funn.defenses.funn_pgd.training.RobustFeatures": {
        "funn.attacks.core.ball",
        "funn.attacks.core.norms",
    },
    "funn.method.classifier.ClassifierStage": {
        "funn.method.features",
        "funn.method.networks",
        "funn.runtime.distributed",
    },
}
ATTACKS = ("funn.attacks.DeepFool", "funn.attacks.LocalSearch", "funn.attacks.FMN")
SETTINGS = dict.fromkeys(
    ("init", "adversarial", "classifier", "attacker", "beta", "gamma", "head"), 1
) | {
    "seed": 0,
    "model": {"_target_": "funn.method.networks.DenseAutoEncoder"},
    "data": {"_target_": "funn.data.synthetic.SyntheticDigits"},
    "objective": {"attacker": {"_target_": "funn.method.objectives.constrained"}},
    "defense": {"stages": {"it": None}},
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """By stage and attack: the modules behind it, and those of which a line changed nothing."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src/funn", folder / "funn")
    what = [
        ("stage", target, SETTINGS | {"defense": {"stages": {"it": {"_target_": target}}}})
        for target in STAGES
    ]
    what += [("attack", target, {"_target_": target}) for target in ATTACKS]
    done = subprocess.run(
        [sys.executable, "-c", EACH_MODULE, json.dumps(what)],
        capture_output=True, text=True, check=False, cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("target", STAGES)
def test_a_line_in_any_module_behind_a_stage_gives_another_fingerprint(edited, target):
    assert edited[target]["same"] == []
    behind = STAGES[target] | {"funn.data.synthetic", "funn.training.module"}
    assert set(edited[target]["seen"]) >= behind


@pytest.mark.parametrize("target", ATTACKS)
def test_a_line_in_any_module_behind_an_attack_gives_another_fingerprint(edited, target):
    assert edited[target]["same"] == []
    behind = {
        "funn.evaluation.records.table",
        "funn.evaluation.trials.run_attack",
        "funn.attacks.core.state",
    }
    assert set(edited[target]["seen"]) >= behind
    assert "funn.attacks.autoattack.square" not in edited[target]["seen"]  # of another attack


FILES = {
    "mine/__init__.py": "",
    "mine/net.py": "from mine.parts import scale\nimport torch\ndef f(x):\n    return scale(x)\n",
    "mine/parts.py": '"""Doc."""\ndef scale(x):\n    return 2 * x  # twice\n',
    "other/__init__.py": "from other.deep import g\nfrom other.never import h\n",
    "other/deep.py": "def g(x):\n    return x\n",
    "other/never.py": "def h(x):\n    return x\n",
    "user.py": "from other import g\nfrom mine.net import f\n",
}


@pytest.fixture
def users(tmp_path, monkeypatch):
    """A user's packages, outside of ours, and what changes a file of them."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("mine", "other", "user"):
            monkeypatch.delitem(sys.modules, name)
    forget_code()

    def write(name, text):
        (tmp_path / name).write_text(text)
        forget_code()

    yield write
    forget_code()


def facts(module="user"):
    return code_behind([module]).facts()


def test_a_users_modules_are_followed_and_installed_packages_have_versions(users):
    code = code_behind(["user"])
    assert set(code.modules) == {"user", "other.deep", "mine.net", "mine.parts"}
    assert set(code.packages) == {"python", "torch"}


@pytest.mark.parametrize("name", ["mine/net.py", "mine/parts.py", "other/deep.py", "user.py"])
def test_a_line_in_a_users_module_counts_and_a_comment_does_not(users, name):
    before = facts()
    users(name, "# why\n" + FILES[name] + "\n\n")
    assert facts() == before
    users(name, FILES[name] + "constant = 1\n")
    assert facts() != before


def test_what_a_package_only_shows_beside_does_not_count(users):
    before = facts()
    users("other/never.py", "def h(x):\n    return 3\n")
    assert facts() == before
    users("other/__init__.py", FILES["other/__init__.py"] + "print('imported')\n")
    assert facts() != before


def test_a_name_that_comes_from_elsewhere_counts(users):
    """Though both modules were behind it before, and neither has changed."""
    users("user.py", "from other.deep import g\nfrom other.never import h\ng(h(1))\n")
    before = facts()
    users("user.py", "from other.deep import g as h\nfrom other.never import h as g\ng(h(1))\n")
    assert facts() != before


def test_a_moved_module_does_not_count(users, tmp_path):
    before = facts()
    (tmp_path / "mine/deeper").mkdir()
    (tmp_path / "mine/deeper/__init__.py").write_text('"""Moved."""\n')
    (tmp_path / "mine/parts.py").rename(tmp_path / "mine/deeper/factor.py")
    users("mine/net.py", FILES["mine/net.py"].replace("mine.parts", "mine.deeper.factor"))
    assert facts() == before
    spec = {"_target_": "mine.net.f", "of": [{"_target_": "mine.deeper.factor.scale", "a": 1}]}
    assert placeless(spec) == {"_target_": "f", "of": [{"_target_": "scale", "a": 1}]}
    assert list(targets(spec)) == ["mine.net.f", "mine.deeper.factor.scale"]


def test_a_path_in_the_code_is_no_place(users, tmp_path):
    users("user.py", 'spec = {"_target_": "other.deep.g"}\nname = "no.module.here"\n')
    before = facts()
    shutil.move(tmp_path / "other/deep.py", tmp_path / "other/moved.py")
    users("user.py", 'spec = {"_target_": "other.moved.g"}\nname = "no.module.here"\n')
    assert facts() == before
    users("user.py", 'spec = {"_target_": "other.moved.g"}\nname = "no.module.there"\n')
    assert facts() != before


def test_a_module_that_is_named_counts_by_its_code(users, tmp_path):
    users("user.py", 'behind = ["other.deep", "user"]\n')
    before = facts()
    shutil.move(tmp_path / "other/deep.py", tmp_path / "other/moved.py")
    users("user.py", 'behind = ["other.moved", "user"]\n')
    assert facts() == before
    users("other/moved.py", "def g(x):\n    return -x\n")
    assert facts() != before


def test_what_never_matters_does_not_by_way_of_its_importers_either(users, monkeypatch):
    monkeypatch.setattr("funn.training.code_behind._NO_MATTER", frozenset({"mine.parts"}))
    before = facts()
    users("mine/parts.py", "def scale(x):\n    return 5 * x\n")
    assert facts() == before


def test_relative_imports_and_those_inside_functions_are_followed(users):
    users("mine/net.py", "def f(x):\n    from .parts import scale\n    return scale(x)\n")
    assert "mine.parts" in code_behind(["user"]).modules
    users(
        "mine/net.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mine.parts\n",
    )
    assert "mine.parts" not in code_behind(["mine.net"]).modules


def test_modules_that_import_each_other_come_to_an_end(users):
    users("mine/parts.py", "import mine.net\ndef scale(x):\n    return 2 * x\n")
    assert set(code_behind(["mine.net"]).modules) == {"mine.net", "mine.parts"}


def test_what_defines_a_target():
    assert defining_module("funn.attacks.DeepFool") == "funn.attacks.minimum_norm.deepfool"
    assert (
        defining_module("funn.attacks.minimum_norm.deepfool")
        == "funn.attacks.minimum_norm.deepfool"
    )
    assert defining_module("torch.nn.Linear") == "torch.nn"


NETWORK = """
from funn.method.networks import DenseAutoEncoder
class Net(DenseAutoEncoder):
    def forward(self, x, noise=None):
        return super().forward({factor} * x, noise)
"""
OBJECTIVE = """
from mine_constant import FACTOR
def attacker(perturbation, error, beta, gamma):
    return FACTOR * perturbation - error
"""


def train(folder, *more):
    return run_command(
        "train.py", *SMALL, "init.epochs=1", "adversarial.epochs=1", *more,
        f"output_dir={folder}/out", PYTHONPATH=str(folder),
    )  # fmt: skip


@pytest.mark.slow
def test_changed_code_of_a_users_network_is_trained_anew_and_old_weights_are_refused(tmp_path):
    (tmp_path / "mine_net.py").write_text(NETWORK.format(factor=1.0))
    first = train(tmp_path, "model._target_=mine_net.Net")
    assert first.returncode == 0, first.stderr
    assert "reused" in train(tmp_path, "model._target_=mine_net.Net").stderr
    (tmp_path / "mine_net.py").write_text(NETWORK.format(factor=0.5))
    evaluate = ("evaluate.py", f"run={first.stdout.splitlines()[-1]}", "attack=fgsm", "images=5",
                "logger=csv", f"output_dir={tmp_path}/out")  # fmt: skip
    refused = run_command(*evaluate, PYTHONPATH=str(tmp_path))
    assert refused.returncode == 2
    assert "mine_net" in refused.stderr
    assert "changed_code=true" in refused.stderr
    assert refused.stderr.count("\n") == 1
    taken = run_command(*evaluate, "changed_code=true", PYTHONPATH=str(tmp_path))
    assert taken.returncode == 0, taken.stderr
    assert "has changed since training" in taken.stderr
    again = train(tmp_path, "model._target_=mine_net.Net")
    assert again.returncode == 0, again.stderr
    assert "reused" not in again.stderr
    assert again.stdout.splitlines()[-1] != first.stdout.splitlines()[-1]


def test_changed_code_behind_a_users_objective_is_trained_anew(tmp_path):
    (tmp_path / "mine_objective.py").write_text(OBJECTIVE)
    (tmp_path / "mine_constant.py").write_text("FACTOR = 1.0\n")
    typed = "objective.attacker._target_=mine_objective.attacker"
    first = train(tmp_path, typed)
    assert first.returncode == 0, first.stderr
    (tmp_path / "mine_constant.py").write_text("FACTOR = 3.0\n")
    again = train(tmp_path, typed)
    assert again.returncode == 0, again.stderr
    assert "init: reused" in again.stderr  # which knows nothing of the objective
    assert "adversarial: reused" not in again.stderr
    assert "classifier: reused" not in again.stderr
