"""Attack a classifier on the official test images, outside the Trainer."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from funn import victims
from funn.build import build
from funn.data import ImageData, Images
from funn.errors import UserError
from funn.examination import check_extras, describe_victim, run_extras
from funn.schema import EvaluateConfig, Launch, Trial
from funn.tracking import log_evaluation, wandb_run
from funn.trials import line, locate_trial, run_trial
from funn.victims import Victim

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, trials: Sequence[Trial], launch: Launch) -> Path:
    """Attack one classifier, and write records and figures.

    Returns:
        The folder `outputs/eval/<victim>` that holds one folder for each attack and protocol.

    Raises:
        UserError: if there is no such victim, or an attack cannot be built.
    """
    victim, data = prepare(config, launch)
    check_extras(config, victim)
    root = Path(config.output_dir) / "eval" / victim.name
    done = []
    with wandb_run(
        config.logger,
        launch,
        name=f"{victim.name}-{launch.choice('suite') or launch.choice('attack')}"
        f"{'' if victim.source is None else '-oblivious'}",
        job_type="evaluation",
        config=described(config, victim),
        folder=Path(config.output_dir),
    ) as tracker:
        for trial in trials:
            test = Images(data.test.images[: trial.images], data.test.labels[: trial.images])
            folder = locate_trial(root, trial, victim, test)
            run_trial(trial, folder, config, victim, test, len(data.test.labels))
            log.info("%s", line(folder))
            done.append(folder)
        if config.suite is not None:
            run_extras(config, config.suite, victim, data, root, done)
        describe_victim(victim, data, config, root)
        if tracker is not None:
            log_evaluation(tracker, [folder.path for folder in done])
    return root


def prepare(config: EvaluateConfig, launch: Launch) -> tuple[Victim, ImageData]:
    """Return the classifier to attack and its data.

    Raises:
        UserError: if either cannot be had, or `data=` was typed for a run of ours.
    """
    if config.run is not None:
        if any(item.startswith("data=") for item in launch.overrides):
            raise UserError("run= is attacked on the data that it was trained for: leave out data=")
        victim = victims.trained(config.run)
        spec: Mapping[str, Any] = victim.facts["trained"]["data"]
    else:
        assert config.victim is not None
        victim, spec = victims.own(config.victim), config.data
    data: ImageData = build(spec, data_dir=Path(config.data_dir))
    victims.check(victim, data.test.floats(2), data.test.labels)
    if config.source is not None:
        victim = victims.seen_as(victim, config.source)
    return victim, data


def described(config: EvaluateConfig, victim: Victim) -> dict[str, Any]:
    """The configuration, with that of the victim's training: its beta, its seed, its data."""
    trained = victim.facts["trained"] or {}
    return {**trained, **config.resolved(), "data": trained.get("data", config.data)}
