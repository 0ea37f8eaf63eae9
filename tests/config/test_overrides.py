"""Whatever is typed composes, or ends with one clear line: no traceback, for any combination."""

import math

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from test_compose import EVALUATE_GROUPS, TRAIN_GROUPS, composed, options

from funn.config.build import build, build_module
from funn.config.cli import mistake
from funn.config.compose import read_config, read_trials
from funn.config.schema import EvaluateConfig, TrainConfig
from funn.method.objectives import attacker_objective

pytestmark = pytest.mark.slow

VALUES = st.sampled_from(
    ["0", "1", "3", "-1", "0.5", "1e30", "1e-30", "nan", "inf", "null", "true", "abc", "[]", "[2]",
     "[-1]", "{}", "{a:1}", "''", "paper", "l1", "${beta}", "${nothing}"]
)  # fmt: skip
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def keys_of(name, *overrides):
    """All dotted keys of a composed configuration, groups among them."""
    with composed(name, *overrides) as cfg:
        found = []

        def walk(node, before):
            for key, value in node.items():
                found.append(f"{before}{key}")
                if isinstance(value, dict):
                    walk(value, f"{before}{key}.")

        walk(OmegaConf.to_container(cfg, resolve=False), "")
        return found


def typed(keys, groups):
    """A few overrides: options of groups, values of keys, removed and invented keys."""
    key = st.sampled_from(keys)
    override = st.one_of(
        st.sampled_from(options(*groups)),
        st.builds("{}={}".format, key, VALUES),
        st.builds("{}={}".format, key, VALUES),
        st.builds("~{}".format, key),
        st.builds("+{}.more={}".format, key, VALUES),
        st.builds("{}s={}".format, key, VALUES),
    )
    return st.lists(override, min_size=1, max_size=4)


def in_one_line(error):
    text = mistake(error)
    return text and "\n" not in text


TRAIN_KEYS = keys_of("train", "attacker=pgd_contrast")
EVALUATE_KEYS = keys_of("evaluate", "run=.", "suite=strong")


@FUZZ
@given(overrides=typed(TRAIN_KEYS, TRAIN_GROUPS))
def test_any_training_is_valid_or_refused_in_one_line(tmp_path, overrides):
    try:
        with composed("train", *overrides) as cfg:
            config = read_config(cfg, TrainConfig)
        for spec in config.defense["stages"].values():
            build(spec).check(config)
        model = build_module(
            {**config.model, "image_shape": [1, 28, 28], "noise": config.attacker["noise"]}
        )
        build_module({**config.head, "features": model.features, "classes": 10})
        attacker_objective(config.objective["attacker"], config.beta, config.gamma)
        build(config.data, data_dir=tmp_path)
    except Exception as error:
        if not in_one_line(error):
            raise
        return
    assert math.isfinite(config.beta)


@FUZZ
@given(
    first=st.sampled_from(options(*EVALUATE_GROUPS)),
    overrides=typed(EVALUATE_KEYS, EVALUATE_GROUPS),
)
def test_any_evaluation_is_valid_or_refused_in_one_line(first, overrides):
    try:
        with composed("evaluate", "run=.", first, *overrides) as cfg:
            config = read_config(cfg, EvaluateConfig)
            trials = read_trials(cfg)
    except Exception as error:
        if not in_one_line(error):
            raise
        return
    assert 0 <= config.begins < 1
    assert all(trial.images is None or trial.images > 0 for trial in trials)
