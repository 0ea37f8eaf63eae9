"""Weights & Biases: a mirror of what lies in the folders, never the only copy.

The only module that imports wandb and wandb_workspaces, and only when it is asked for.
"""

import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from funn.artifacts.files import read_json, write_json
from funn.config.schema import LoggerConfig
from funn.errors import UserError

if TYPE_CHECKING:
    import wandb
    import wandb_workspaces.workspaces as ws

log = logging.getLogger(__name__)

# What metrics are drawn over, by the first part of their names; each is logged next to them.
AXES = {
    "batch": "trainer/global_step",
    "epoch": "epoch",
    "curve": "curve/iterations",
    "robust": "robust/eps",
}
# The key of the pictures of the game.
IMAGES = "clean, attacked, restored, clean restored"
_PATIENCE = 30.0  # seconds for a run to open ...
_LAST_PATIENCE = 60.0  # ... and for what is left to be sent when it ends


class Table(NamedTuple):
    """A table of plain values."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@contextmanager
def wandb_run(
    settings: LoggerConfig,
    *,
    name: str,
    group: str,
    job_type: str,
    config: Mapping[str, Any],
    folder: Path,
    kept: Path | None = None,
) -> Iterator["wandb.Run | None"]:
    """Open one W&B run, and finish it with the state that the work inside ends with.

    Args:
        settings: the logger group; with `wandb` false there is no run.
        name: the run's name.
        group: joins the runs of a sweep or of a pipeline.
        job_type: the stage, or "evaluation".
        config: the resolved configuration.
        folder: where the `wandb` folder lies.
        kept: the file that names the run for as long as its work is not finished: the same command
            goes on with it after a kill. None for a new run each time.

    Yields:
        The run, or None.
    """
    if not settings.wandb:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(settings, name, group, job_type, config, folder)
    run = _open(_mode(settings.mode), arguments, kept)
    exit_code = 1
    try:
        yield run
        exit_code = 0
    finally:
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            log.warning(
                "W&B has not taken all of %s within %.0f s: `wandb sync %s` sends it later",
                name, _LAST_PATIENCE, Path(run.dir).parent,
            )  # fmt: skip


def log_media(
    run: "wandb.Run", tables: Mapping[str, Table], pictures: Mapping[str, Path] | None = None
) -> None:
    """Log tables, and pictures that lie in files, by their keys.

    Of a table that grows the whole is logged each time: W&B shows the last.
    """
    import wandb

    made: dict[str, Any] = {
        key: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
        for key, table in tables.items()
    }
    run.log(made | {key: wandb.Image(str(path)) for key, path in (pictures or {}).items()})


def save_workspace(specification: Mapping[str, Any], project: str, entity: str | None) -> str:
    """Save a workspace as a new view of a project.

    Args:
        specification: see `funn.artifacts.dashboard.specification`.
        project: the W&B project that the runs are logged to.
        entity: who owns it; None for the account's default.

    Returns:
        The address of the view.

    Raises:
        UserError: if nobody is logged in, or W&B refuses.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        owner = entity or wandb.Api().default_entity
        if owner is None:
            raise UserError("your W&B account has no default entity: give --entity")
        return str(build_workspace(specification, project, owner).save().url)
    except (wandb.Error, WandbApiFailedError) as error:
        raise UserError(
            f"W&B did not save the dashboard: {error} (--dry-run prints it without an account)"
        ) from error


def build_workspace(specification: Mapping[str, Any], project: str, entity: str) -> "ws.Workspace":
    """Turn a specification (`dashboard`) into the classes of W&B; needs no account."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.reports.v2.interface import Config

    def panel(type: str, **arguments: Any) -> Any:
        for name, value in arguments.items():
            if isinstance(value, Mapping):
                arguments[name] = Config(value["config"])
        return getattr(wr, type)(**arguments)

    sections = [
        ws.Section(
            name=section["name"], panels=[panel(**item) for item in section["panels"]], is_open=True
        )
        for section in specification["sections"]
    ]
    return ws.Workspace(
        entity=entity, project=project, name=specification["name"], sections=sections
    )


def _arguments(
    settings: LoggerConfig,
    name: str,
    group: str,
    job_type: str,
    config: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """What `wandb.init` is told, but for the mode and the identity of the run."""
    import wandb

    return {
        "project": settings.project,
        "entity": settings.entity,
        "dir": str(folder),
        "name": name,
        "group": group,
        "job_type": job_type,
        "config": dict(config),
        # A server that never answers would hold up the opening for a minute and a half, and one
        # that falls silent later the end for hours.
        "settings": wandb.Settings(
            console="off",
            x_disable_stats=True,
            silent=True,
            init_timeout=_PATIENCE,
            finish_timeout=_LAST_PATIENCE,
            finish_timeout_raises=True,
        ),
    }


def _open(mode: Any, arguments: Mapping[str, Any], kept: Path | None) -> "wandb.Run":
    """Open a new run, or the one that a file names; see `wandb_run`.

    What began offline goes on offline, for W&B has not seen its beginning yet: `wandb sync` sends
    the parts in order.
    """
    import wandb

    before = {} if kept is None else read_json(kept) or {}
    identity = {"id": before["id"], "resume": "allow"} if before else {"id": _new_id()}
    if mode == "online" and before.get("offline"):
        log.info("W&B: the run %s began offline and goes on offline", before["id"])
        mode = "offline"
    try:
        run = wandb.init(mode=mode, **identity, **arguments)
    except wandb.Error as error:
        reason = str(error).partition("\n")[0]
        log.warning("W&B is out of reach (%s): this run is logged offline", reason)
        # Under another name, for W&B's own process still holds the run that it could not open.
        run = wandb.init(mode="offline", id=_new_id(), **arguments)
    if kept is not None and not before:
        write_json(kept, {"id": run.id, "offline": bool(run.offline)})
    for prefix, axis in AXES.items():
        run.define_metric(f"{prefix}/*", step_metric=axis)
    return run


def _new_id() -> str:
    return uuid.uuid4().hex[:8]


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
