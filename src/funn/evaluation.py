"""Attack a classifier on the official test images, outside the Trainer."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from funn import victims
from funn.build import build
from funn.data import ImageData, Images
from funn.errors import UserError
from funn.feature_uses import feature_uses
from funn.files import write_json
from funn.gradient_zeros import gradient_zeros
from funn.masking_attacks import masking
from funn.reconstruction import reconstruction
from funn.schema import EvaluateConfig, Launch, Trial
from funn.stage_folder import StageFolder
from funn.thin_convolution import with_thin_convolutions
from funn.tracking import log_evaluation, wandb_run
from funn.trials import RECORDS, line, locate_trial, run_trial
from funn.victims import Victim
from funn.worst_case import worst_case

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, trials: Sequence[Trial], launch: Launch) -> Path:
    """Attack one classifier, and write records and figures.

    Returns:
        The folder `outputs/eval/<victim>` that holds one folder for each attack and protocol.

    Raises:
        UserError: if there is no such victim, or an attack cannot be built.
    """
    victim, data = prepare(config, launch)
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
        seen = with_thin_convolutions(victim.model)
        if config.suite is not None:
            run_extras(config, config.suite, victim, seen, data, root, done)
        zeros = gradient_zeros(seen, data.test, config.batch_size)
        write_json(root / "gradients.json", zeros)
        if victim.run is not None:
            write_json(root / "reconstruction.json", reconstruction(victim.run, data.test))
        if tracker is not None:
            log_evaluation(tracker, [folder.path for folder in done])
    return root


def run_extras(
    config: EvaluateConfig,
    suite: Mapping[str, Any],
    victim: Victim,
    seen: nn.Module,
    data: ImageData,
    root: Path,
    done: Sequence[StageFolder],
) -> None:
    """What some suites do beyond attacks one by one, on the first images of the test set.

    Raises:
        UserError: if a suite of features is asked of a victim without an encoder.
    """
    first = config.images or suite["images"]
    few = Images(data.test.images[:first], data.test.labels[:first])
    if "cascade" in suite:
        log.info("%s", worst_case(config, victim, few, root, [f.path / RECORDS for f in done]))
    if "masking" in suite:
        found = masking(seen, few, config.batch_size, suite["masking"]["controls"])
        write_json(root / "masking.json", {"images": len(few.labels), **found, **victim.facts})
    if "features" in suite:
        encoder = getattr(seen, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise UserError(f"{victim.name} has no encoder: suite=features needs one")
        uses = feature_uses(encoder, data.train, few, **suite["features"])
        log.info("%s", uses)
        write_json(root / "features.json", {"images": len(few.labels), **uses, **victim.facts})


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
