"""The folder of one stage or attack: its files, its lock, its status."""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from funn.artifacts.files import read_json, sha256, write_json
from funn.artifacts.layout import CHECKPOINT, RESULT, STATUS
from funn.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageFolder:
    """Where a stage's files lie. Only letters, digits, `.`, `-` and `_` in its name."""

    name: str
    fingerprint: str
    path: Path

    @property
    def checkpoint(self) -> Path:
        """The networks."""
        return self.path / CHECKPOINT

    def result(self) -> dict[str, Any] | None:
        """The content of result.json, if this stage is finished and its checkpoint is whole.

        Raises:
            UserError: if the checkpoint is not the one that result.json speaks of.
        """
        result = read_json(self.path / RESULT)
        if result is None or self.state() != "finished":
            return None
        if not self.checkpoint.exists() or sha256(self.checkpoint) != result["checkpoint_sha256"]:
            raise UserError(
                f"{self.checkpoint} is damaged or was changed since it was trained: delete "
                f"{self.path} and run the training command again"
            )
        return result

    def amend(self, **facts: Any) -> None:
        """Write into a finished result what is said of it otherwise now; its figures stay."""
        result = read_json(self.path / RESULT) or {}
        if any(result.get(name) != value for name, value in facts.items()):
            write_json(self.path / RESULT, {**result, **facts})

    def state(self) -> str | None:
        """What was recorded last: running, finished, failed or interrupted."""
        return (read_json(self.path / STATUS) or {}).get("state")

    def write_status(self, state: str, **more: Any) -> None:
        """Record the state: running, finished, failed or interrupted."""
        write_json(
            self.path / STATUS,
            {
                "state": state,
                "stage": self.name,
                "fingerprint": self.fingerprint,
                "pid": os.getpid(),
                # To the microsecond: it says which of several results is the newest.
                "time": datetime.now().astimezone().isoformat(),
                **more,
            },
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time work on the stage; a killed one's lock frees itself."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.lock(".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("%s: waiting for another process that works in %s", self.name, self.path)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def lock(self, name: str) -> FileLock:
        """A lock in the folder; who holds it may take it again."""
        return FileLock(self.path / name, is_singleton=True)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Record in status.json how what happens inside ends, if not well."""
        try:
            yield
        except Exception as error:
            self._give_up("failed", error=str(error), traceback=traceback.format_exc())
            raise
        except BaseException:  # Ctrl-C, SIGTERM
            self._give_up("interrupted")
            raise

    def _give_up(self, state: str, **more: Any) -> None:
        with self.locked():
            # Another process may have finished meanwhile.
            if self.state() != "finished":
                self.write_status(state, **more)
