"""Every YAML file composes, is valid, and builds; every mistake is one clear line."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_command
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from funn.config.build import build, locate
from funn.config.cli import mistake
from funn.config.compose import (
    changed_training,
    check_keys,
    check_types,
    read_config,
    read_launch,
    read_trials,
)
from funn.config.schema import EvaluateConfig, ReportConfig, TrainConfig
from funn.config.title import titled
from funn.defenses.magnet.model import MagNet
from funn.errors import UserError
from funn.method.objectives import attacker_objective

CONF = ROOT / "conf"
TRAIN_GROUPS = (
    "phase", "defense", "objective", "attacker", "head", "model", "data", "trainer", "logger",
    "experiment",
)  # fmt: skip
EVALUATE_GROUPS = ("attack", "suite")


def options(*groups):
    return [
        f"{group}={path.stem}" for group in groups for path in sorted((CONF / group).glob("*.yaml"))
    ]


@contextmanager
def composed(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="test"):
        cfg = compose(name, overrides=list(overrides), return_hydra_config=True)
        cfg.hydra.job.config_name = name
        cfg.hydra.runtime.output_dir = "/log/sweep/0"
        HydraConfig.instance().set_config(cfg)
        yield compose(name, overrides=list(overrides))


def read(name, kind, *overrides):
    with composed(name, *overrides) as cfg:
        return read_config(cfg, kind)


def trials(*overrides):
    with composed("evaluate", "run=.", *overrides) as cfg:
        read_config(cfg, EvaluateConfig)
        return read_trials(cfg)


def test_every_file_is_reachable():
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert groups == {*TRAIN_GROUPS, *EVALUATE_GROUPS}
    files = {path.stem for path in CONF.glob("*.yaml")}
    assert files == {"train", "evaluate", "report", "shared"}


@pytest.mark.parametrize("option", options(*TRAIN_GROUPS))
def test_every_training_option_is_valid_and_builds(option, tmp_path):
    config = read("train", TrainConfig, option)
    for spec in config.defense["stages"].values():
        build(spec)
    data = build(config.data, data_dir=tmp_path)
    model = build(config.model, image_shape=(1, 28, 28), noise=config.attacker["noise"])
    build(config.head, features=model.features, classes=10)
    objective = attacker_objective(config.objective["attacker"], config.beta, config.gamma)
    loss = objective(torch.ones(()), torch.ones(()))
    assert loss.ndim == 0
    assert data.val_size == 0
    assert set(config.phase.stages or ()) <= {"init", "adversarial", "classifier"}


@pytest.mark.parametrize("option", options(*EVALUATE_GROUPS))
def test_every_attack_and_suite_is_valid_and_builds(option):
    head = {"_target_": "funn.method.networks.Head", "features": 784, "classes": 10, "hidden": []}
    model = MagNet(head, channels=1, filters=3)  # has the detectors that some attacks ask for,
    model.encoder = model.reformer  # and the encoder that others ask for
    found = trials(option)
    assert found or option in ("suite=features", "suite=masking")  # which attack in their own way
    for trial in found:
        assert build(trial.spec, model).model is model


def test_table_1_has_each_attack_under_each_protocol():
    found = {f"{trial.name} {trial.protocol}": trial for trial in trials("suite=table1")}
    both = ("deepfool_l2", "deepfool_linf", "fgsm", "bim", "local_search")
    expected = {f"{name} {protocol}" for name in both for protocol in ("strict", "foolbox1")}
    assert found.keys() == expected | {"single_pixel both"}
    for trial in found.values():
        assert trial.spec.get("protocol", "both") == trial.protocol
        slow = trial.name in ("local_search", "single_pixel")
        assert trial.images == (1000 if slow else None)
    assert found["deepfool_l2 strict"].spec["steps"] == 1000


def test_one_attack_runs_under_the_protocol_that_was_typed():
    (trial,) = trials("attack=deepfool_l2", "attack.steps=3", "protocol=foolbox1")
    assert trial.protocol == trial.spec["protocol"] == "foolbox1"
    assert trial.spec["steps"] == 3
    assert [trial.protocol for trial in trials("attack=torchattacks_deepfool")] == ["both"]


def test_the_report_config():
    assert Path(read("report", ReportConfig).output_dir) == ROOT / "outputs"


def test_the_defaults_are_the_papers():
    config = read("train", TrainConfig)
    assert (config.beta, config.gamma) == (0.01, 5.0)
    assert (config.init.epochs, config.adversarial.epochs, config.classifier.epochs) == (9, 31, 20)
    assert (config.init.attacker_lr, config.init.defender_lr) == (1e-3, 5e-4)
    assert (config.adversarial.attacker_lr, config.adversarial.defender_lr) == (1e-5, 1e-5)
    assert config.init.batch_size == config.adversarial.batch_size == 128
    assert config.classifier.lr == 1e-3


def test_a_defence_may_choose_other_values_and_what_is_typed_wins():
    assert read("train", TrainConfig, "defense=classic_long").init.epochs == 40
    assert read("train", TrainConfig, "defense=classic_long", "init.epochs=3").init.epochs == 3
    found = read("train", TrainConfig, "defense=funn_printed")
    assert found.objective["attacker"]["_target_"] == "funn.method.objectives.printed"
    typed = read("train", TrainConfig, "defense=funn_printed", "objective=constrained")
    assert typed.objective["attacker"]["_target_"] == "funn.method.objectives.constrained"


def test_what_was_typed_is_known():
    with composed("train", "beta=0.02"):
        launch = read_launch()
    assert launch.choice("defense") == "funn"
    assert launch.choice("nonsense") is None


@pytest.mark.parametrize(
    ("name", "typed", "unusual"),
    [
        ("train", [], ()),
        ("train", ["model=paper", "data=mnist", "head=margin", "init.epochs=1"], ()),
        ("train", ["model=wide"], ("model=wide",)),
        ("train", ["data=synthetic", "model=wide"], ("model=wide", "data=synthetic")),
        ("train", ["defense=funn_pgd"], ()),
        ("train", ["defense=funn_pgd", "model=wide"], ()),
        ("train", ["defense=funn_pgd", "model=paper"], ("model=paper",)),
        ("evaluate", ["run=.", "attack=fgsm", "data=synthetic"], ()),
    ],
)
def test_the_model_and_the_data_that_a_defence_does_not_have_by_itself(name, typed, unusual):
    with composed(name, *typed):
        assert read_launch().unusual == unusual


@pytest.mark.parametrize(
    ("value", "declared", "message"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, "unknown key x.b"),
        ({"a": 1.5}, {"a": 1}, r"x.a=1.5 must be a whole number"),
        ({"a": True}, {"a": 1}, "whole number"),
        ({"a": "1"}, {"a": 1.0}, "must be a number"),
        ({"a": float("nan")}, {"a": 1.0}, "must be finite"),
        ({"a": 3}, {"a": "text"}, "must be text"),
        ({"a": 3}, {"a": [1]}, "must be a list"),
        ({"a": [1, "b"]}, {"a": [1]}, "whole number"),
        ({"a": 1}, {"a": {"b": 1}}, "group of keys"),
    ],
)
def test_the_value_in_the_file_declares_the_type(value, declared, message):
    with pytest.raises(UserError, match=message):
        check_types("x", value, declared)


def test_whole_numbers_are_numbers():
    check_types("x", {"a": 1, "b": [1, 2], "c": None}, {"a": 1.5, "b": [3], "c": "text"})


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (TrainConfig, {"init": {"epoch": 3}}, "key init.epoch: did you mean init.epochs?"),
        (TrainConfig, {"init": {"momentum": 0.1}}, "key init.momentum: init has epochs, batch"),
        (TrainConfig, {"bta": 1}, "unknown key bta: did you mean beta?"),
        (TrainConfig, {"foo": 1}, "unknown key foo: --cfg job lists the keys"),
        (TrainConfig, {"logger": {"projects": "x"}}, "did you mean logger.project?"),
        (TrainConfig, {"phase": {"stage": ["init"]}}, "did you mean phase.stages?"),
        (EvaluateConfig, {"atack": {"eps": 1}}, "unknown key atack: did you mean attack?"),
        (ReportConfig, {"seed": 1}, "unknown key seed"),
    ],
)
def test_a_key_that_the_schema_does_not_know(kind, given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_keys(given, kind)


def test_a_group_answers_for_its_own_keys():
    check_keys({"model": {"anything": 1}, "init": {"epochs": 3}}, TrainConfig)
    with pytest.raises(UserError, match=r"unknown key x\.chanels: did you mean x\.channels\?"):
        check_types("x", {"channels": [1], "chanels": [2]}, {"channels": [1]})


@pytest.mark.parametrize(
    ("name", "kind", "typed"),
    [
        ("train", TrainConfig, ["++init.epochs=3", "experiment=beta_sweep", "++seed=1"]),
        ("train", TrainConfig, ["experiment=lr_sweep", "defense=magnet", "++logger.mode=offline"]),
        ("train", TrainConfig, ["defense=funn_pgd", "attacker=mixed", "head=margin"]),
        ("evaluate", EvaluateConfig, ["run=.", "suite=strong", "~suite.attacks.ddn"]),
        ("evaluate", EvaluateConfig, ["run=.", "attack=fgsm", "++attack.eps=1"]),
    ],
)
def test_what_may_be_typed_in_other_ways(name, kind, typed):
    read(name, kind, *typed)


def test_an_attack_put_into_a_suite_that_was_not_chosen(monkeypatch):
    with pytest.raises(ConfigCompositionException) as caught:
        trials("+attack@suite=fgsm")
    monkeypatch.setattr("sys.argv", ["evaluate.py", "run=.", "+attack@suite=fgsm"])
    assert mistake(caught.value) == "suite is not chosen: give suite=NAME"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train.py ++init.epoch=3", "unknown key init.epoch: did you mean init.epochs?"),
        ("train.py +init.weight_decay=0.1", "unknown key init.weight_decay: init has epochs,"),
        ("train.py +foo=1", "unknown key foo: --cfg job"),
        ("train.py +device=cuda", "unknown key device: --cfg job"),
        ("evaluate.py run=. +atack.eps=1", "unknown key atack: did you mean attack?"),
        ("report.py +foo=1", "unknown key foo: --cfg job"),
    ],
)
def test_an_added_key_that_nothing_reads_is_refused(command, says, tmp_path):
    script, *overrides = command.split()
    output = tmp_path / "outputs"
    done = run_command(script, *overrides, f"output_dir={output}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {says}")
    assert not done.stdout
    assert [path.name for path in output.iterdir()] == ["log"]  # Hydra's, of every command


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"_target_": "funn.method.networks.Nothing"}, "cannot be imported"),
        ({"_target_": "nothing.at.all"}, "cannot be imported"),
        ({"features": 3}, "names no _target_"),
        ({"_target_": "funn.method.networks.__doc__"}, "not a class or a function"),
    ],
)
def test_a_target_that_does_not_exist(spec, message):
    with pytest.raises(UserError, match=message):
        locate(spec)


def test_an_option_that_the_target_does_not_take():
    with pytest.raises(UserError, match="unexpected keyword argument 'colour'"):
        build(
            {
                "_target_": "funn.method.networks.Head",
                "features": 1,
                "classes": 2,
                "hidden": [],
                "colour": 3,
            }
        )


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train.py phase=int", "adversarial, all, classifier, init"),
        ("train.py betta=1", "unknown key betta: did you mean beta?"),
        ("train.py init.epoch=3", "unknown key init.epoch: did you mean init.epochs?"),
        ("train.py foo.bar=3", "unknown key foo: --cfg job lists the keys"),
        ("train.py beta=-1", "beta=-1.0 must be above 0"),
        ("train.py beta=???", "error: missing: give beta=..."),
        ("train.py ~beta", "error: missing: give beta=..."),
        ("train.py beta=abc", "beta=abc: Value 'abc'"),
        ("train.py init.epochs=-1", "init.epochs=-1 must be 0 or more"),
        ("train.py classifier.batch_size=0", "classifier.batch_size=0 must be 1 or more"),
        ("train.py model.features=abc", "model.features=abc must be a whole number"),
        ("train.py +model.colour=1", "unknown key model.colour"),
        ("train.py defense=nope", "classic, classic_long"),
        ("train.py model=null", "must be a string or a list"),
        ("train.py logger.mode=loud", "auto, online, offline, disabled"),
        ("train.py output_dir=/dev/null/x", "/dev/null/x/log"),
        ("evaluate.py suite=table1", "missing: give either run=FOLDER"),
        ("evaluate.py run=/no suite=table1", "run=/no does not exist"),
        ("evaluate.py run=x", "give either attack=NAME or suite=NAME"),
        ("evaluate.py run=x attack=fgsm suite=table1", "give either attack=NAME or suite=NAME"),
        ("evaluate.py run=x +attack.eps=1", "attack.eps=1 has nothing to change: add attack=NAME"),
        ("evaluate.py run=x attack=fgsm protocol=lax", "foolbox1, strict"),
    ],
)
def test_a_mistake_is_one_line_before_torch_is_imported(command, says, tmp_path):
    # A torch that cannot be imported shows that nothing asked for it.
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    script, *overrides = command.split()
    done = run_command(script, *overrides, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("typed", "title"),
    [
        ((), "funn"),
        (("beta=0.02", "seed=1"), "funn (seed=1, beta=0.02)"),
        (("init.epochs=3", "head=margin"), "funn (head=margin, init.epochs=3)"),
        (("defense=funn_pgd", "head=margin"), "funn_pgd (head=margin)"),
        (("defense=funn_printed",), "funn_printed"),
        (("model._target_=mine.Net",), "funn (model._target_=Net)"),
    ],
)
def test_a_run_is_named_with_what_conf_does_not_declare(typed, title):
    keys = ("seed", "data", "init", "model", "adversarial", "beta", "objective", "classifier",
            "head", "defense.stages.classifier")  # fmt: skip
    with composed("train", *typed) as cfg:
        settings = {}
        for key in keys:
            value = OmegaConf.select(cfg, key)
            settings[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        choices = read_launch().choices
        assert titled(cfg.defense.name, changed_training(settings, choices)) == title


def test_an_attack_is_known_by_what_conf_does_not_declare():
    assert trials("attack=fgsm")[0].changed == {}
    (trial,) = trials("attack=deepfool_l2", "attack.steps=3", "protocol=foolbox1")
    assert trial.changed == {"steps": 3}
    steps = {trial.name: trial.changed for trial in trials("suite=table1")}
    assert steps["deepfool_l2"] == {"steps": 1000}
    assert steps["fgsm"] == {}
