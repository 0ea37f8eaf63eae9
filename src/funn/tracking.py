"""Weights & Biases: a mirror of what lies in the folders, never the only copy.

The only module that imports wandb, and only when it is asked for.
"""

import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funn.files import read_json
from funn.schema import Launch, LoggerConfig

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

_FIGURES = (
    "success_rate", "success_rate_verified", "noise_level", "noise_level_verified", "median_l2",
    "rounding_share", "images", "attacked", "clean_accuracy", "seconds",
)  # fmt: skip


@contextmanager
def wandb_run(
    settings: LoggerConfig,
    launch: Launch,
    *,
    name: str,
    job_type: str,
    config: Mapping[str, Any],
    folder: Path,
) -> Iterator["wandb.Run | None"]:
    """Open one W&B run, and finish it with the state that the work inside ends with.

    Args:
        settings: the logger group; with `wandb` false there is no run.
        launch: its group joins the runs of a sweep or of a pipeline.
        name: the run's name.
        job_type: the stage, or "evaluation".
        config: the resolved configuration.
        folder: where the `wandb` folder lies.

    Yields:
        The run, or None.
    """
    if not settings.wandb:
        yield None
        return
    run = _open(settings, launch, name, job_type, config, folder)
    exit_code = 1
    try:
        yield run
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)


def log_evaluation(run: "wandb.Run", folders: Sequence[Path]) -> None:
    """Log the figures of each attack as a table and as a summary, and its picture."""
    import wandb

    results = [read_json(folder / "result.json") or {} for folder in folders]
    table = wandb.Table(columns=["attack", "protocol", *_FIGURES])
    for result in results:
        table.add_data(*(result[name] for name in ("attack", "protocol", *_FIGURES)))
        for name in _FIGURES:
            run.summary[f"{result['attack']}/{result['protocol']}/{name}"] = result[name]
    pictures = {
        f"{result['attack']}/{result['protocol']}": wandb.Image(str(folder / "examples.png"))
        for folder, result in zip(folders, results, strict=True)
        if (folder / "examples.png").exists()
    }
    run.log({"attacks": table, **pictures})


def _open(
    settings: LoggerConfig,
    launch: Launch,
    name: str,
    job_type: str,
    config: Mapping[str, Any],
    folder: Path,
) -> "wandb.Run":
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, Any] = {
        "project": settings.project,
        "entity": settings.entity,
        "dir": str(folder),
        "id": uuid.uuid4().hex[:8],
        "name": name,
        "group": launch.group,
        "job_type": job_type,
        "config": dict(config),
        "settings": wandb.Settings(console="off", x_disable_stats=True, silent=True),
    }
    mode = _mode(settings.mode)
    try:
        return wandb.init(mode=mode, **arguments)
    except wandb.Error as error:
        log.warning("W&B is out of reach (%s): this run is logged offline", error)
        return wandb.init(mode="offline", **arguments)


def _mode(wanted: str) -> Any:
    """Online when the user is logged in, offline otherwise; never a prompt."""
    import wandb

    if wanted != "auto":
        return wanted
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    try:
        logged_in = wandb.login(prompt=False, verify=False)
    except (wandb.Error, ValueError) as error:
        log.warning("W&B credentials are of no use (%s): logging offline", error)
        return "offline"
    return "online" if logged_in else "offline"
