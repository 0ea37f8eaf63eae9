"""Train a defence: its stages in order, each once."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from funn.artifacts.files import point_link, sha256, write_json
from funn.artifacts.folder import StageFolder
from funn.artifacts.layout import RESULT, TRACKED, latest, run_folder
from funn.artifacts.provenance import provenance
from funn.artifacts.tracking import wandb_run
from funn.config.build import build
from funn.config.compose import changed_training
from funn.config.schema import Launch, TrainConfig
from funn.config.title import titled
from funn.data.dataset import ImageData
from funn.errors import UserError
from funn.training.checkpoint import digest, save
from funn.training.fingerprint import fingerprint, told
from funn.training.fit import fit, forget
from funn.training.stage import Stage, own_settings, stage_facts

log = logging.getLogger(__name__)


def train(config: TrainConfig, launch: Launch) -> Path:
    """Run the stages that `config.phase` asks for, reusing what is finished.

    Returns:
        The folder `outputs/train/<defense>-<fingerprint>` of the last stage that was asked for:
        the path to pass to evaluation once it holds a classifier.

    Raises:
        UserError: if the defence has no such stage, or a stage before it was not trained.
    """
    stages: dict[str, Stage] = {
        name: build(spec) for name, spec in config.defense["stages"].items()
    }
    wanted = wanted_stages(config, list(stages))
    for name in wanted:
        stages[name].check(config)
    data: ImageData = build(config.data, data_dir=Path(config.data_dir))
    checksums = {"train": data.train.checksum(), "val": data.val.checksum()}
    done: list[StageFolder] = []
    settings = {"seed": config.seed, "data": config.data}
    for name, stage in stages.items():
        parent = done[-1] if done else None
        settings = {**settings, **own_settings(stage, name, config.resolved())}
        facts = stage_facts(stage, name, config.resolved(), checksums, _networks(parent))
        folder = locate(config, name, fingerprint(facts))
        if name in wanted:
            run_stage(stage, folder, config, launch, data, done, settings, facts)
        elif folder.result() is None:
            raise missing(config, launch, wanted[0], folder)
        done.append(folder)
        if name == wanted[-1]:
            break
    return publish(config, done)


def wanted_stages(config: TrainConfig, stages: list[str]) -> list[str]:
    """Return the stages of the defence that the phase asks for, in order.

    Raises:
        UserError: if there is none.
    """
    asked = stages if config.phase.stages is None else config.phase.stages
    wanted = [name for name in stages if name in asked]
    if not wanted:
        raise UserError(
            f"defense={config.defense['name']} has no stage {'/'.join(asked)}: "
            f"it has {', '.join(stages)} (phase=all trains them in order)"
        )
    return wanted


def locate(config: TrainConfig, stage: str, digest: str) -> StageFolder:
    """Return the folder of a stage: the fingerprint is in its name, so it is found again.

    The init stage does not depend on the defence and lives under `init-<fingerprint>`.
    """
    owner = "init" if stage == "init" else config.defense["name"]
    run = run_folder(Path(config.output_dir), owner, digest)
    return StageFolder(stage, digest, run / stage)


def missing(config: TrainConfig, launch: Launch, phase: str, folder: StageFolder) -> UserError:
    """The error for a stage whose parent was not trained, naming the command that trains it."""
    kept = [item for item in launch.overrides if not item.startswith("phase=")]
    parent = f"phase={folder.name} " if folder.name in ("init", "adversarial") else ""
    command = " ".join([f"python src/train.py {parent}".strip(), *kept])
    return UserError(
        f"phase={phase} needs a finished {folder.name} stage, and {folder.path} has none: "
        f"run `{command}` first (or phase=all)"
    )


def run_stage(
    stage: Stage,
    folder: StageFolder,
    config: TrainConfig,
    launch: Launch,
    data: ImageData,
    parents: list[StageFolder],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Train one stage in its folder, or reuse it, or go on from its last finished epoch.

    `settings` are the values, by dotted key, that it and its parents depend on; `facts` are all
    that its fingerprint is of.
    """
    label = stage_label(config, launch, folder.name)
    named = _named(config, changed_training({**settings}, launch.choices))
    with folder.locked():
        if config.reuse and folder.result() is not None:
            folder.amend(**named)  # conf/ may declare something else than when it was trained
            log.info("%s: reused %s (%s)", label, folder.path, told(facts))
            return
        if not config.reuse:
            forget(folder.path)
        log.info("%s: training in %s", label, folder.path)
        start = time.perf_counter()
        folder.write_status("running")
        with folder.reporting():
            parent = parents[-1].checkpoint if parents else None
            parts = stage.prepare(config, data, parent, folder.path)
            with _loggers(config, launch, folder) as loggers:
                fit(parts, folder.path, config.trainer, loggers, label, config.log_every)
            save(folder.checkpoint, parts.module.saved)
            trained = {
                "metrics": parts.module.epoch_metrics,
                "checkpoint_sha256": sha256(folder.checkpoint),
                "networks_sha256": digest(parts.module.saved),
                "data_sha256": data.train.checksum(),
                "wall_seconds": round(time.perf_counter() - start, 2),
            }
            about = _origin(folder, config, launch, parents) | named
            about |= {"depends_on": facts, "settings": settings}
            write_json(folder.path / RESULT, {**about, **trained, **provenance()})
        folder.write_status("finished")
        forget(folder.path)


def _origin(
    folder: StageFolder, config: TrainConfig, launch: Launch, parents: list[StageFolder]
) -> dict[str, Any]:
    """What a stage's result says of where it comes from."""
    return {
        "stage": folder.name,
        "defense": config.defense["name"],
        "seed": config.seed,
        "fingerprint": folder.fingerprint,
        "parents": [_parent(folder, parent) for parent in parents],
        "group": launch.group,
        "config": config.resolved(),
    }


def _named(config: TrainConfig, changed: dict[str, Any]) -> dict[str, Any]:
    return {"title": titled(config.defense["name"], changed), "changed": changed}


def stage_label(config: TrainConfig, launch: Launch, stage: str) -> str:
    """Name a stage as what is printed does: `funn (model=wide, data=synthetic) init`.

    The defence alone would not tell two trainings apart that differ in the network or the images.
    """
    unusual = f" ({', '.join(launch.unusual)})" if launch.unusual else ""
    return f"{config.defense['name']}{unusual} {stage}"


def publish(config: TrainConfig, done: list[StageFolder]) -> Path:
    """Link the earlier stages into the last one's run folder, and `outputs/latest` to a full run.

    Returns:
        The run folder.
    """
    run = done[-1].path.parent
    for folder in done[:-1]:
        if folder.path.parent != run:
            point_link(run / folder.name, folder.path)
    if done[-1].name == list(config.defense["stages"])[-1]:
        defense = config.defense["name"]
        link = latest(Path(config.output_dir), str(defense))
        point_link(link, run)
        log.info("%s is now %s: what was trained last with defense=%s", link, run.name, defense)
    return run


def _networks(parent: StageFolder | None) -> str | None:
    """The digest of a finished stage's networks."""
    result = None if parent is None else parent.result()
    return None if result is None else str(result["networks_sha256"])


def _parent(folder: StageFolder, parent: StageFolder) -> dict[str, Any]:
    """A parent's checkpoint, by a path relative to outputs/train, so that outputs can be moved."""
    return {
        "stage": parent.name,
        "path": str(parent.checkpoint.relative_to(folder.path.parent.parent)),
        "sha256": sha256(parent.checkpoint),
    }


@contextmanager
def _loggers(config: TrainConfig, launch: Launch, folder: StageFolder) -> Iterator[list[Logger]]:
    with wandb_run(
        config.logger,
        name=f"{folder.path.parent.name}-{folder.name}",
        group=launch.group,
        job_type=folder.name,
        config=config.resolved(),
        folder=Path(config.output_dir),
        kept=folder.path / TRACKED,
    ) as run:
        yield [] if run is None else [WandbLogger(experiment=run)]
