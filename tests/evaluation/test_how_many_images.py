"""One rule: what was typed, or else the suite's number, or else the attack's own, or else all."""

import pytest
from test_compose import composed

from funn.config.cli import mistake
from funn.config.compose import read_config, read_trials
from funn.config.schema import EvaluateConfig
from funn.config.suite import Suite
from funn.evaluation.how_many_images import how_many_images, most_images


def asked(*typed):
    with composed("evaluate", "run=.", *typed) as cfg:
        return read_config(cfg, EvaluateConfig), read_trials(cfg)


def counts(*typed):
    config, trials = asked(*typed)
    return {trial.name: how_many_images(config, trial.images) for trial in trials}


def test_how_many_images_an_attack_takes():
    assert counts("attack=local_search") == {"local_search": 1000}
    assert counts("attack=local_search", "images=7") == {"local_search": 7}
    assert counts("attack=fgsm") == {"fgsm": None}
    assert set(counts("suite=table1", "images=7").values()) == {7}
    assert set(counts("suite=quick").values()) == {200}
    assert set(counts("suite=strong").values()) == {Suite().images} == {1000}
    table1 = counts("suite=table1")
    assert {name for name, count in table1.items() if count} == {"local_search", "single_pixel"}


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        (["suite=masking"], 200),
        (["suite=masking", "images=9"], 9),
        (["suite=features"], 1000),
        (["suite=strong", "suite.images=8"], 8),
        (["suite=strong", "suite.images=8", "images=9"], 9),
    ],
)
def test_how_many_images_a_study_takes(typed, count):
    config, trials = asked(*typed)
    assert how_many_images(config) == count
    assert {how_many_images(config, trial.images) for trial in trials} <= {count}
    assert most_images(config, trials) == count


def test_the_images_are_read_once_for_who_needs_most():
    config, trials = asked("attack=local_search")
    assert most_images(config, trials) == 1000
    assert most_images(*asked("suite=table1")) is None


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["suite=quick", "suite.images=0"], "suite.images=0 must be 1 or more"),
        (["attack=local_search", "attack.images=0"], "images of local_search=0 must be 1 or more"),
        (["suite=quick", "suite.protocols=[]"], "suite.protocols is empty"),
        (["suite=quick", "suite.protocols=[strange]"], "suite.protocols=strange must be one of"),
        (["suite=table1", "suite.iterations=[0]"], "suite.iterations=0 must be 1 or more"),
        (["suite=quick", "suite.transfer=x"], "suite.transfer=x is of no use to this suite"),
        (["suite=features", "suite.features.norm=l7"], "suite.features.norm=l7 must be l2 or linf"),
        (["suite=strong", "suite.cascade.l2.radii=[]"], "radii are missing"),
        (["suite=strong", "suite.cascade.l2.radii=[-1]"], "must be 0 or more"),
        (["suite=strong", "++suite.cascade.l2.radi=[1]"], "cascade.l2.radi"),
        (["suite=quick", "++suite.imagess=3"], "imagess"),
    ],
)
def test_a_suite_is_checked_as_it_is_read(typed, says):
    with pytest.raises(Exception) as raised:  # noqa: PT011
        asked(*typed)
    told = mistake(raised.value)
    assert told is not None
    assert says in told
    assert "\n" not in told
