"""One Lightning fit that a kill costs at most an epoch of."""

import io
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger

from funn.checkpoint import read
from funn.files import replace_file
from funn.metric_log import MetricLog
from funn.schema import TrainerConfig
from funn.stage_module import StageModule
from funn.stages import Fit

log = logging.getLogger(__name__)

_RESUME = "last.ckpt"


class _WholeFiles(TorchCheckpointIO):
    """Lightning renames a file from TMPDIR, which is no rename across file systems; we stay in."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        stream = io.BytesIO()
        torch.save(checkpoint, stream)
        replace_file(Path(path), stream.getvalue())


def fit(
    parts: Fit,
    folder: Path,
    settings: TrainerConfig,
    loggers: Sequence[Logger],
    label: str,
) -> None:
    """Train `parts` in `folder`, going on from the last finished epoch if there is one.

    On the CPU an interrupted and resumed fit ends with the same bits as an uninterrupted one:
    order and noise come from (seed, epoch, batch), and the resume file is written between epochs.

    Raises:
        UserError: if the resume file is damaged, or a metric is no longer finite.
    """
    resume = folder / _RESUME
    epochs_done = read(resume)["epoch"] + 1 if resume.exists() else 0
    callbacks: list[Callback] = [
        *parts.callbacks,
        # Not `save_last`: with that the file is only written when a metric improves.
        ModelCheckpoint(folder, filename="last", enable_version_counter=False),
    ]
    progress = sys.stderr.isatty()
    callbacks.append(_ProgressBar(label) if progress else _ProgressLines(label))
    with warnings.catch_warnings():
        _silence(warnings)
        trainer = Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            max_epochs=parts.epochs,
            callbacks=callbacks,
            logger=[MetricLog(folder / "metrics.csv", epochs_done), *loggers],
            plugins=[_WholeFiles()],
            default_root_dir=folder,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(parts.module, parts.batches, ckpt_path=str(resume) if epochs_done else None)


def forget(folder: Path) -> None:
    """Remove the resume file: the stage is finished, or is to start anew."""
    (folder / _RESUME).unlink(missing_ok=True)


class _ProgressLines(Callback):
    """Where the output is no terminal: a line an epoch."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        means = ", ".join(f"{name} {value:.5f}" for name, value in pl_module.means().items())
        epochs = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
        log.info("%s: epoch %s, %s", self.label, epochs, means)


class _ProgressBar(TQDMProgressBar):
    def __init__(self, label: str) -> None:
        super().__init__(refresh_rate=20)
        self.label = label

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.set_description(self.label)
        return bar


def _silence(filters: Any) -> None:
    # Lightning's notes on missing GPUs and its advertisements.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Ours on purpose: in-memory batches need no workers; frozen parts stay in eval mode; the
    # resume file between epochs is whole.
    for message in (
        ".*does not have many workers.*",
        ".*in eval mode.*",
        ".*exists and is not empty.*",
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
    ):
        filters.filterwarnings("ignore", message)
