"""Attack a trained classifier on the official test images, outside the Trainer."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from funn.attacking import attack_parts, parts
from funn.build import build, locate
from funn.config import EvaluateConfig, Launch
from funn.data import ImageData, Images
from funn.errors import UserError
from funn.files import read_json, write_json
from funn.loading import Run, find_run, load_classifier
from funn.metrics import summarize
from funn.provenance import provenance
from funn.reconstruction import reconstruction
from funn.records import write_table
from funn.stage_folder import CHECKPOINT, RESULT, STATUS, StageFolder
from funn.stages import code_hash
from funn.tracking import log_evaluation, wandb_run

log = logging.getLogger(__name__)

RECORDS = "records.parquet"
# What an attack's records depend on, next to its own module.
_SOURCES = ("funn.attacking", "funn.records", "funn.metrics", "funn.attacks.base")


@dataclass(frozen=True)
class Trial:
    """One attack under one protocol.

    Attributes:
        name: the attack's name in the configuration.
        protocol: "strict" or "foolbox1".
        spec: the attack's target and settings.
    """

    name: str
    protocol: str
    spec: Mapping[str, Any]


def evaluate(config: EvaluateConfig, launch: Launch) -> Path:
    """Attack one classifier by an attack or a suite, and write records and figures.

    Returns:
        The folder `outputs/eval/<run>` that holds one folder for each attack and protocol.

    Raises:
        UserError: if there is no such run, or an attack cannot be built.
    """
    run = find_run(config.run)
    model = load_classifier(run.folder)
    data: ImageData = build(run.result["config"]["data"], data_dir=Path(config.data_dir))
    limit = config.images or (config.suite or {}).get("images")
    test = Images(data.test.images[:limit], data.test.labels[:limit])
    root = Path(config.output_dir) / "eval" / run.name
    done = []
    with wandb_run(
        config.logger,
        launch,
        name=f"{run.name}-{launch.choice('suite') or launch.choice('attack')}",
        job_type="evaluation",
        config=config.resolved(),
        folder=Path(config.output_dir),
    ) as tracker:
        for trial in trials(config, launch):
            folder = locate_trial(root, trial, run, test)
            run_trial(trial, folder, config, run, model, test)
            log.info("%s", line(folder))
            done.append(folder)
        write_json(root / "reconstruction.json", reconstruction(run, test))
        if tracker is not None:
            log_evaluation(tracker, [folder.path for folder in done])
    return root


def trials(config: EvaluateConfig, launch: Launch) -> list[Trial]:
    """Return the attacks to run, each under each protocol that it has.

    An attack without a `protocol` setting (those of torchattacks) is a fixed-epsilon attack and
    belongs to `strict`.

    Raises:
        UserError: if nothing is left to run.
    """
    if config.suite is not None:
        attacks, protocols = config.suite["attacks"], config.suite["protocols"]
    else:
        assert config.attack is not None
        attacks = {str(launch.choice("attack")): config.attack}
        protocols = [config.protocol]
    chosen = [
        Trial(name, protocol, dict(spec) | ({"protocol": protocol} if "protocol" in spec else {}))
        for name, spec in attacks.items()
        for protocol in protocols
        if "protocol" in spec or protocol == "strict"
    ]
    if not chosen:
        raise UserError(f"{', '.join(attacks)} has no protocol {config.protocol}: use strict")
    return chosen


def locate_trial(root: Path, trial: Trial, run: Run, test: Images) -> StageFolder:
    """Return the trial's folder; its name holds the hash of all that its records depend on."""
    facts = {
        "classifier": run.result["checkpoint_sha256"],
        "attack": dict(trial.spec),
        "images": test.checksum(),
        "torch": torch.__version__,
        "sources": {
            module: code_hash(module) for module in (*_SOURCES, locate(trial.spec).__module__)
        },
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{trial.name}-{trial.protocol}"
    return StageFolder(name, digest, root / f"{name}-{digest}")


def run_trial(
    trial: Trial,
    folder: StageFolder,
    config: EvaluateConfig,
    run: Run,
    model: nn.Module,
    test: Images,
) -> None:
    """Attack the test images in parts, or reuse what is finished."""
    with folder.locked():
        if not config.reuse:
            for part in parts(folder.path):
                part.unlink()
        elif finished(folder):
            log.info("%s: reused %s", folder.name, folder.path)
            return
        with folder.reporting():
            start = time.perf_counter()
            attack = build(trial.spec, model)
            table = pa.concat_tables(
                attack_parts(attack, folder.path, model, test, config.batch_size, folder.name)
            )
            write_table(folder.path / RECORDS, table)
            write_json(
                folder.path / RESULT,
                {
                    "attack": trial.name,
                    "protocol": trial.protocol,
                    "settings": dict(trial.spec),
                    **summarize(table),
                    "seconds": round(time.perf_counter() - start, 2),
                    "run": run.name,
                    "defense": run.result["defense"],
                    "seed": run.result["seed"],
                    "fingerprint": folder.fingerprint,
                    "parents": [
                        {
                            "stage": run.result["stage"],
                            "path": f"{run.name}/{run.result['stage']}/{CHECKPOINT}",
                            "sha256": run.result["checkpoint_sha256"],
                        },
                        *run.result["parents"],
                    ],
                    "data": run.result["config"]["data"],
                    "config": config.resolved(),
                    **provenance(),
                },
            )
        folder.write_status("finished")
        for part in parts(folder.path):
            part.unlink()


def finished(folder: StageFolder) -> bool:
    """Whether the trial's records and figures are there."""
    status = read_json(folder.path / STATUS) or {}
    files = (folder.path / RECORDS).exists() and read_json(folder.path / RESULT) is not None
    return status.get("state") == "finished" and files


def line(folder: StageFolder) -> str:
    """One line of figures for the terminal."""
    result = read_json(folder.path / RESULT)
    assert result is not None
    noise = result["noise_level"]
    return (
        f"{folder.name}: success {percent(result['success_rate'])} tracked, "
        f"{percent(result['success_rate_verified'])} verified, "
        f"noise level {'-' if noise is None else f'{noise:.4f}'}, "
        f"{result['attacked']} of {result['images']} images attacked, "
        f"clean accuracy {percent(result['clean_accuracy'])}"
    )


def percent(rate: float | None) -> str:
    """A rate in percent with two decimals; a dash where there is none."""
    return "-" if rate is None else f"{100 * rate:.2f} %"
