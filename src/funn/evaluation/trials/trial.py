"""One attack under one protocol: its folder, its records, its figures."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from funn.artifacts.files import read_json, write_json
from funn.artifacts.folder import StageFolder
from funn.artifacts.layout import RECORDS, RESULT, attack_name, with_fingerprint
from funn.artifacts.provenance import provenance
from funn.config.build import build, locate
from funn.config.schema import EvaluateConfig, Trial
from funn.data.images import Images
from funn.evaluation.records.metrics import iteration_curve, noise, percent, summarize, within_steps
from funn.evaluation.records.table import read_table
from funn.evaluation.trials.shards import attack_parts, lock_of, merge, parts
from funn.evaluation.victims import Victim, named
from funn.training.code_behind import code_behind, placeless, targets
from funn.training.fingerprint import fingerprint, told

log = logging.getLogger(__name__)

# What makes records of an attack, next to the attack itself.
_ENGINE = ("funn.evaluation.trials.run_attack", "funn.evaluation.records.table", "funn.fast_layers")


def trial_facts(trial: Trial, victim: Victim, test: Images) -> dict[str, Any]:
    """All that a trial's records depend on: classifier, attack, images and the code behind them."""
    roots = [*_ENGINE, str(locate(trial.spec).__module__), *targets(dict(trial.spec))]
    return {
        "classifier": victim.digest,
        "attack": placeless(dict(trial.spec)),
        "images": test.checksum(),
        **code_behind(roots).facts(),
    }


def locate_trial(root: Path, trial: Trial, victim: Victim, test: Images) -> StageFolder:
    """Return the trial's folder; its name holds the hash of all that its records depend on."""
    digest = fingerprint(trial_facts(trial, victim, test))
    name = attack_name(trial.name, trial.protocol, victim.source is not None)
    return StageFolder(name, digest, with_fingerprint(root, name, digest))


def run_trial(
    trial: Trial,
    folder: StageFolder,
    config: EvaluateConfig,
    victim: Victim,
    test: Images,
    predictions: Tensor,
    every: int,
) -> None:
    """Attack test images, part by part, or reuse what is finished; warn of what cannot be.

    Processes that are at the same trial share its parts. Whoever sees the last one done sums up.

    Args:
        trial: the attack.
        folder: where its records go.
        config: of the evaluation.
        victim: the classifier.
        test: the images.
        predictions: the classifier's, of these (N,).
        every: how many test images there are.
    """
    with folder.locked():
        if not config.reuse:
            for part in parts(folder.path):
                part.unlink()
        elif finished(folder):
            _renew(trial, folder, config, victim)
            facts = told(trial_facts(trial, victim, test))
            log.info("%s: reused %s (%s)", folder.name, folder.path, facts)
            warn(folder)
            return
        folder.write_status("running")
    with folder.reporting():
        attack = build(trial.spec, victim.seen.fast)
        source = None if victim.source is None else victim.source.model
        attack_parts(
            attack, folder.path, victim.judge, test, predictions, config.batch_size, folder.name,
            source, lambda: finished(folder), config.begins,
        )  # fmt: skip
        with folder.locked():
            if not finished(folder):
                _sum_up(trial, folder, config, victim, test, every)
    warn(folder)


def _renew(trial: Trial, folder: StageFolder, config: EvaluateConfig, victim: Victim) -> None:
    """Give a reused result today's name, and the numbers of iterations that it was not asked for.

    What conf/ declares may have changed since it was attacked.
    """
    now = {"attack_changed": dict(trial.changed), **named(victim.facts)}
    result = read_json(folder.path / RESULT) or {}
    there = result.get("iterations", {})
    if set(map(str, _iterations(trial, config))) - there.keys():
        now["iterations"] = there | figures(folder.path / RECORDS, trial, config)["iterations"]
    folder.amend(**now)


def _sum_up(
    trial: Trial,
    folder: StageFolder,
    config: EvaluateConfig,
    victim: Victim,
    test: Images,
    every: int,
) -> None:
    seconds = merge(folder.path, folder.path / RECORDS, len(test.labels))
    write_json(
        folder.path / RESULT,
        {
            **figures(folder.path / RECORDS, trial, config),
            "test_images": every,
            "seconds": round(seconds, 2),
            "fingerprint": folder.fingerprint,
            "depends_on": trial_facts(trial, victim, test),
            **victim.facts,
            "config": config.resolved(),
            **provenance(),
        },
    )
    folder.write_status("finished")
    for part in parts(folder.path):
        part.unlink()
        lock_of(part).unlink(missing_ok=True)


def figures(path: Path, trial: Trial, config: EvaluateConfig) -> dict[str, Any]:
    """Sum up records: the attack as it was run and, of DeepFool, after fewer iterations too."""
    table = read_table(path)
    content = {
        "attack": trial.name,
        "protocol": trial.protocol,
        "settings": dict(trial.spec),
        "attack_changed": dict(trial.changed),
        **asdict(summarize(table)),
    }
    if getattr(locate(trial.spec), "stops_at_success", False):
        steps = _iterations(trial, config)
        content["iterations"] = {str(n): asdict(summarize(within_steps(table, n))) for n in steps}
        content["curve"] = iteration_curve(table)
    return content


def _iterations(trial: Trial, config: EvaluateConfig) -> list[int]:
    """After how many steps the figures of DeepFool are asked for too."""
    if config.suite is None or not getattr(locate(trial.spec), "stops_at_success", False):
        return []
    return [n for n in config.suite.iterations if n <= trial.spec["steps"]]


def finished(folder: StageFolder) -> bool:
    """Whether the trial's records and figures are there."""
    files = (folder.path / RECORDS).exists() and read_json(folder.path / RESULT) is not None
    return files and folder.state() == "finished"


def warn(folder: StageFolder) -> None:
    """Tell of successes that are none, and of failures that are the attack's own."""
    result = read_json(folder.path / RESULT)
    assert result is not None
    if result["unexplained"] and result["source"] is None:
        log.warning(
            "%s: the attack saw %d successes of %d that the float64 copy denies by more than "
            "rounding. The classifier may be random, answer by the batch it is in, or change its "
            "input; or the attack returned images outside [0, 1]: only the verified rate counts",
            folder.name, result["unexplained"], result["successes"],
        )  # fmt: skip
    if result["blind_failures"]:
        log.warning(
            "%s: on %d of the %d attacked images the gradient was exactly zero, or not finite, and "
            "the attack failed: that is no robustness. Take an attack without gradients "
            "(attack=square_linf), or look closer with suite=masking",
            folder.name, result["blind_failures"], result["attacked"],
        )  # fmt: skip


def line(folder: StageFolder) -> str:
    """One line of figures for the terminal."""
    result = read_json(folder.path / RESULT)
    assert result is not None
    return (
        f"{folder.name}: success {percent(result['success_rate'])} tracked, "
        f"{percent(result['success_rate_verified'])} verified, "
        f"noise level {noise(result['noise_level'])}, "
        f"{result['attacked']} of {result['images']} images attacked, "
        f"clean accuracy {percent(result['clean_accuracy'])}"
    )
