"""One attack under one protocol: its folder, its records, its figures."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from funn.build import build, locate
from funn.data import Images
from funn.fast_layers import with_fast_layers
from funn.files import read_json, write_json
from funn.metrics import iteration_curve, noise, percent, summarize, within_steps
from funn.parts import attack_parts, lock_of, merge, parts
from funn.provenance import provenance
from funn.records import read_table
from funn.schema import EvaluateConfig, Trial
from funn.stage_folder import RESULT, StageFolder
from funn.stages import code_hash, modules_behind
from funn.victims import Victim

log = logging.getLogger(__name__)

RECORDS = "records.parquet"
# What an attack's records depend on, next to the modules of the attack.
_SOURCES = (
    "funn.attacking", "funn.fast_layers", "funn.dense_product", "funn.thin_convolution",
    "funn.records", "funn.seeding",
)  # fmt: skip


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
    """Attack test images, of `every` that there are, part by part, or reuse what is finished.

    Processes that are at the same trial share its parts. Whoever sees the last one done sums up.
    """
    with folder.locked():
        if not config.reuse:
            for part in parts(folder.path):
                part.unlink()
        elif finished(folder):
            log.info("%s: reused %s", folder.name, folder.path)
            return
        folder.write_status("running")
    with folder.reporting():
        seen = victim.model if victim.source is None else victim.source
        attack = build(trial.spec, with_fast_layers(seen))
        attack_parts(
            attack, folder.path, victim.model, test, config.batch_size, folder.name,
            victim.source, lambda: finished(folder), config.begins,
        )  # fmt: skip
        with folder.locked():
            if not finished(folder):
                _sum_up(trial, folder, config, victim, len(test.labels), every)


def _sum_up(
    trial: Trial,
    folder: StageFolder,
    config: EvaluateConfig,
    victim: Victim,
    count: int,
    every: int,
) -> None:
    seconds = merge(folder.path, folder.path / RECORDS, count)
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
        lock_of(part).unlink(missing_ok=True)


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
    files = (folder.path / RECORDS).exists() and read_json(folder.path / RESULT) is not None
    return files and folder.state() == "finished"


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
