"""`metrics.csv` of a stage: every logged point, kept across a resumed run."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from funn.artifacts.files import replace_file

_PLACE = ("epoch", "step")


class MetricLog(Logger):
    """A Lightning logger that rewrites one CSV file at the end of each epoch.

    Lightning's own CSVLogger deletes what an interrupted run had logged.

    Args:
        path: the file.
        finished_epochs: epochs whose rows are kept from an earlier, interrupted run.
    """

    def __init__(self, path: Path, finished_epochs: int) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if finished_epochs and path.exists():
            with path.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
            self.rows = [row for row in rows if int(row["epoch"]) <= finished_epochs]

    @property
    def name(self) -> str:
        """Name of the log."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one version."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Nothing: the stage's result.json holds the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep a row: its epoch (from 1), the number of batches so far, and scalars."""
        row = dict(metrics) | {"epoch": int(metrics["epoch"]), "step": step}
        if self.rows and int(self.rows[-1]["step"]) == step:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
        if any(name.startswith("epoch/") for name in metrics):
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file, whole."""
        names = dict.fromkeys([*_PLACE, *(name for row in self.rows for name in row)])
        stream = io.StringIO()
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        replace_file(self.path, stream.getvalue().encode())
