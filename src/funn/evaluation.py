"""Attack a classifier on the official test images, outside the Trainer."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from funn import victims
from funn.attacking import attack_parts, merge, parts
from funn.build import build, locate
from funn.data import ImageData, Images
from funn.errors import UserError
from funn.files import read_json, write_json
from funn.gradient_zeros import gradient_zeros
from funn.metrics import iteration_curve, noise, percent, summarize, within_steps
from funn.provenance import provenance
from funn.reconstruction import reconstruction
from funn.records import read_table
from funn.schema import EvaluateConfig, Launch, Trial
from funn.stage_folder import RESULT, STATUS, StageFolder
from funn.stages import code_hash, modules_behind
from funn.thin_convolution import with_thin_convolutions
from funn.tracking import log_evaluation, wandb_run
from funn.victims import Victim

log = logging.getLogger(__name__)

RECORDS = "records.parquet"
# What an attack's records depend on, next to the modules of the attack.
_SOURCES = (
    "funn.attacking", "funn.thin_convolution", "funn.records", "funn.seeding",
)  # fmt: skip


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
        describe_victim(victim, data, config, root)
        if tracker is not None:
            log_evaluation(tracker, [folder.path for folder in done])
    return root


def describe_victim(victim: Victim, data: ImageData, config: EvaluateConfig, root: Path) -> None:
    """Measure what every evaluation shows of a classifier, once."""
    gradients, errors = root / "gradients.json", root / "reconstruction.json"
    if not (config.reuse and gradients.exists()):
        seen = with_thin_convolutions(victim.model)
        write_json(gradients, gradient_zeros(seen, data.test, config.batch_size))
    if victim.run is not None and not (config.reuse and errors.exists()):
        write_json(errors, reconstruction(victim.run, data.test))


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


def locate_trial(root: Path, trial: Trial, victim: Victim, test: Images) -> StageFolder:
    """Return the trial's folder; its name holds the hash of all that its records depend on."""
    sources = [*_SOURCES, *modules_behind(locate(trial.spec).__module__, "funn.attacks")]
    facts = {
        "classifier": victim.digest,
        "attack": dict(trial.spec),
        "images": test.checksum(),
        "torch": torch.__version__,
        "sources": {name: code_hash(name) for name in sources},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{trial.name}-{trial.protocol}{'' if victim.source is None else '-oblivious'}"
    return StageFolder(name, digest, root / f"{name}-{digest}")


def run_trial(
    trial: Trial,
    folder: StageFolder,
    config: EvaluateConfig,
    victim: Victim,
    test: Images,
    every: int,
) -> None:
    """Attack test images, of `every` that there are, part by part, or reuse what is finished."""
    with folder.locked():
        if not config.reuse:
            for part in parts(folder.path):
                part.unlink()
        elif finished(folder):
            log.info("%s: reused %s", folder.name, folder.path)
            return
        with folder.reporting():
            seen = victim.model if victim.source is None else victim.source
            attack = build(trial.spec, with_thin_convolutions(seen))
            attack_parts(
                attack, folder.path, victim.model, test, config.batch_size, folder.name,
                victim.source,
            )  # fmt: skip
            seconds = merge(folder.path, folder.path / RECORDS)
            write_json(
                folder.path / RESULT,
                {
                    **figures(folder.path / RECORDS, trial, config),
                    "test_images": every,
                    "seconds": round(seconds, 2),
                    "fingerprint": folder.fingerprint,
                    **victim.facts,
                    "config": config.resolved(),
                    **provenance(),
                },
            )
        folder.write_status("finished")
        for part in parts(folder.path):
            part.unlink()


def figures(path: Path, trial: Trial, config: EvaluateConfig) -> dict[str, Any]:
    """Sum up records: the attack as it was run and, of DeepFool, after fewer iterations too."""
    table = read_table(path)
    content = {
        "attack": trial.name,
        "protocol": trial.protocol,
        "settings": dict(trial.spec),
        **summarize(table),
    }
    if getattr(locate(trial.spec), "stops_at_success", False):
        steps = [n for n in (config.suite or {}).get("iterations", []) if n <= trial.spec["steps"]]
        content["iterations"] = {str(n): summarize(within_steps(table, n)) for n in steps}
        content["curve"] = iteration_curve(table)
    return content


def finished(folder: StageFolder) -> bool:
    """Whether the trial's records and figures are there."""
    status = read_json(folder.path / STATUS) or {}
    files = (folder.path / RECORDS).exists() and read_json(folder.path / RESULT) is not None
    return status.get("state") == "finished" and files


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
