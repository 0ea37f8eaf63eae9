"""Attack a classifier on the official test images, outside the Trainer."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from funn.artifacts.layout import victim_folder
from funn.artifacts.tracked_evaluation import group_of, tracked_evaluation
from funn.config.build import build
from funn.config.schema import EvaluateConfig, Launch, Trial
from funn.data.dataset import ImageData
from funn.data.images import Images
from funn.errors import UserError
from funn.evaluation import victims
from funn.evaluation.how_many_images import how_many_images, most_images
from funn.evaluation.suite import describe_victim, run_extras, transferred_from
from funn.evaluation.trials.run_attack import predict
from funn.evaluation.trials.trial import line, locate_trial, run_trial
from funn.evaluation.victim_checks import check, introduce
from funn.evaluation.victims import Victim
from funn.loading import find_run

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, trials: Sequence[Trial], launch: Launch) -> Path:
    """Attack one classifier, and write records and figures.

    Returns:
        The folder `outputs/eval/<victim>` that holds one folder for each attack and protocol.

    Raises:
        UserError: if there is no such victim, or an attack cannot be built.
    """
    victim, data = prepare(config, launch)
    transfer = transferred_from(config, victim, data)
    test = _first(data.test, most_images(config, trials))
    predictions = predict(victim.model, test.floats(), config.batch_size)
    introduce(victim, data, test, predictions)
    root = victim_folder(Path(config.output_dir), victim.name)
    done = []
    with tracked_evaluation(
        config.logger,
        name=f"{victim.name}-{launch.choice('suite') or launch.choice('attack')}"
        f"{'' if victim.source is None else '-oblivious'}",
        group=group_of(victim.run and victim.run.result, launch),
        config=described(config, victim),
        folder=Path(config.output_dir),
    ) as track:
        for trial in trials:
            few = _first(test, how_many_images(config, trial.images))
            folder = locate_trial(root, trial, victim, few)
            clean = predictions[: len(few.labels)]
            run_trial(trial, folder, config, victim, few, clean, len(data.test.labels))
            log.info("%s", line(folder))
            track(folder.path)
            done.append(folder)
        if config.suite is not None:
            few = _first(test, how_many_images(config))
            run_extras(
                config, config.suite, victim, data, few, predictions, transfer, root, done, track
            )
        describe_victim(victim, data, config, root)
    return root


def prepare(config: EvaluateConfig, launch: Launch) -> tuple[Victim, ImageData]:
    """Return the classifier to attack, checked, and its data.

    Raises:
        UserError: if either cannot be had or they do not go together, if `data=` was typed for a
            run of ours, or is missing for a user's own classifier.
    """
    if config.run is not None:
        if any(item.startswith("data=") for item in launch.overrides):
            raise UserError("run= is attacked on the data that it was trained for: leave out data=")
        run = find_run(config.run)
        data: ImageData = build(run.result["config"]["data"], data_dir=Path(config.data_dir))
        victim = victims.trained(run, data, config.changed_code)
    else:
        assert config.victim is not None
        assert config.data is not None
        data = build(config.data, data_dir=Path(config.data_dir))
        victim = victims.own(config.victim, data)
    check(victim, data)
    if config.source is not None:
        victim = victims.seen_as(victim, config.source, data, config.changed_code)
        check(victim.seen, data)
    return victim, data


def described(config: EvaluateConfig, victim: Victim) -> dict[str, Any]:
    """The configuration, with that of the victim's training: its beta, its seed, its data."""
    trained = victim.facts["trained"] or {}
    return {**trained, **config.resolved(), "data": trained.get("data", config.data)}


def _first(images: Images, count: int | None) -> Images:
    return Images(images.images[:count], images.labels[:count])
