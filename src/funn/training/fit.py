"""One Lightning fit that a kill costs at most an epoch of."""

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessRaisedException

from funn.artifacts.files import replace_file
from funn.artifacts.layout import METRICS, RESUME, TRACKED
from funn.artifacts.metric_log import MetricLog
from funn.config.schema import TrainerConfig
from funn.errors import UserError
from funn.fast_layers import use_fast_layers
from funn.runtime.malloc import keep_freed_memory
from funn.runtime.threads import halves
from funn.training.checkpoint import read
from funn.training.module import StageModule
from funn.training.stage import Fit

log = logging.getLogger(__name__)


# Lightning has torch look for GPUs through NVML, for the sake of programs that fork; where there is
# none, each step of an optimiser then looks for NVML's library again. Nothing here forks.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


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
    log_every: int = 50,
) -> None:
    """Train `parts` in `folder`, going on from the last finished epoch if there is one.

    On the CPU an interrupted and resumed fit ends with the same bits as an uninterrupted one:
    order and noise come from (seed, epoch, batch), and the resume file is written between epochs.

    Args:
        parts: what to train. The layers of its networks are replaced, in place, by faster forms.
        folder: the stage's own, where resume file and metrics.csv lie.
        settings: what to train on.
        loggers: further ones, beside metrics.csv.
        label: what to call the stage in what is printed.
        log_every: batches between two logged points.

    Raises:
        UserError: if the resume file is damaged, or a metric is no longer finite.
    """
    for saved in parts.module.saved.values():
        use_fast_layers(saved.module)
    resume = folder / RESUME
    epochs_done = read(resume)["epoch"] + 1 if resume.exists() else 0
    count = _processes(parts, settings, label)
    path = folder / METRICS
    with warnings.catch_warnings(), _plain_errors():
        _silence(warnings)
        # A logger's connection does not pass to another process.
        here = [MetricLog(path, epochs_done), *(loggers if count == 1 else ())]
        trainer = _trainer(parts, folder, settings, count, here, label, log_every)
        on_halves = parts.module.has_halves and count == 1 and settings.accelerator == "cpu"
        with halves() if on_halves else nullcontext():
            trainer.fit(parts.module, parts.batches, ckpt_path=str(resume) if epochs_done else None)
    if count > 1:
        _recover(parts.module, MetricLog(path, parts.epochs).rows, epochs_done, loggers)


def _trainer(
    parts: Fit,
    folder: Path,
    settings: TrainerConfig,
    count: int,
    loggers: list[Logger],
    label: str,
    log_every: int,
) -> Trainer:
    """Lightning's Trainer for `count` processes, with a resume file after every epoch."""
    progress = sys.stderr.isatty()
    callbacks: list[Callback] = [
        *parts.callbacks,
        # Not `save_last`: with that the file is only written when a metric improves.
        ModelCheckpoint(folder, filename="last", enable_version_counter=False),
        _ProgressBar(label) if progress else _ProgressLines(label),
    ]
    return Trainer(
        accelerator=settings.accelerator,
        devices=count,
        strategy="auto" if count == 1 else _Processes(count, parts.module),
        max_epochs=parts.epochs,
        log_every_n_steps=log_every,
        callbacks=callbacks,
        logger=loggers,
        plugins=_plugins(),
        default_root_dir=folder,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


def forget(folder: Path) -> None:
    """Remove what a stage would be resumed from: it is finished, or is to start anew."""
    for name in (RESUME, TRACKED):
        (folder / name).unlink(missing_ok=True)


def _processes(parts: Fit, settings: TrainerConfig, label: str) -> int:
    """How many processes train.

    Raises:
        UserError: if there is no such accelerator, or a batch cannot be shared among them.
    """
    if settings.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError("torch sees no GPU here: leave out trainer=gpu (trainer.accelerator=cpu)")
    count, batch = settings.devices, parts.batches.batch_size
    if count > 1 and not parts.module.shares_batches:
        reason = "its loss compares the images of a whole batch, or draws for all of them at once"
        log.info("%s: in one process, for %s", label, reason)
        return 1
    if batch % count:
        raise UserError(
            f"batch_size={batch} cannot be shared equally by trainer.devices={count}: "
            f"give a multiple of {count}"
        )
    return count


def _plugins() -> list[Any]:
    # Lightning would ask SLURM to start the job again, and look for its state elsewhere. Ours is
    # found by its fingerprint, whoever starts the same command again.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [_WholeFiles(), *slurm]


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn a user's mistake in another process into one here."""
    try:
        yield
    except ProcessRaisedException as error:
        _, found, message = str(error).rpartition(f"{UserError.__module__}.UserError: ")
        if not found:
            raise
        raise UserError(message.strip()) from None


def _recover(
    module: StageModule,
    rows: Sequence[Mapping[str, Any]],
    epochs_done: int,
    loggers: Sequence[Logger],
) -> None:
    """Bring here what other processes logged: Lightning brings the weights alone."""
    for row in rows:
        numbers = {name: float(value) for name, value in row.items() if value not in ("", None)}
        step = int(numbers.pop("step"))
        if numbers["epoch"] > epochs_done:
            for logger in loggers:
                logger.log_metrics(numbers, step)
        ends = {name.removeprefix("epoch/"): v for name, v in numbers.items() if "epoch/" in name}
        module.epoch_metrics = ends or module.epoch_metrics


class _Processes(DDPStrategy):
    """Processes that train together, each on its share of the processors.

    They are spawned, for then only the training itself runs in all of them: Lightning's other way
    starts the whole command again in each.
    """

    def __init__(self, count: int, module: StageModule) -> None:
        # Of two players that take turns, one leaves the other's parameters unused.
        alternating = not module.automatic_optimization
        super().__init__(start_method="spawn", find_unused_parameters=alternating)
        self.threads = max(torch.get_num_threads() // count, 1)

    def setup_environment(self) -> None:
        """What the command has done for its own process."""
        logging.basicConfig(format="%(message)s", level=logging.INFO)
        _silence(warnings)
        keep_freed_memory()
        torch.set_num_threads(self.threads)
        super().setup_environment()

    def teardown(self) -> None:
        """Also end the threads that the processes talk by: one that is left can abort an exit."""
        super().teardown()
        if dist.is_initialized():
            dist.destroy_process_group()


class _ProgressLines(Callback):
    """Where the output is no terminal: a line an epoch."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        means = ", ".join(f"{name} {value:.5f}" for name, value in pl_module.means().items())
        if not trainer.is_global_zero:
            return
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
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
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
