"""What every trained stage shares: logging by batch and epoch, and the modules it leaves behind."""

from collections.abc import Iterable, Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from funn.errors import UserError
from funn.runtime.distributed import means_of_all
from funn.training.checkpoint import Networks


def adam(
    parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Adam in one pass over memory, a third of the time of torch's default on a CPU."""
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True)


class StageModule(LightningModule):
    """A LightningModule that is trained as one stage and saved as plain networks.

    Args:
        saved: the networks that the stage's checkpoint holds, by name.

    Attributes:
        shares_batches: whether processes that each train on a share of every batch end where one
            would: true where the loss is a mean over images, or takes care of what is not.
        has_halves: whether its steps have two halves that can be computed at once.
    """

    shares_batches = False
    has_halves = False

    def __init__(self, saved: Networks) -> None:
        super().__init__()
        self.saved = saved
        self.epoch_metrics: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def record(self, metrics: Mapping[str, Tensor], batch_idx: int) -> None:
        """Add one batch's scalars to the epoch's means; log them when the Trainer is to.

        Lightning's `self.log` costs up to 2 ms a batch, a tenth of a training step here.
        """
        values = {name: value.detach() for name, value in metrics.items()}
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._batches += 1
        step = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx + 1
        if step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            means = means_of_all({name: float(value) for name, value in values.items()})
            self._log({f"batch/{name}": value for name, value in means.items()}, step)

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        self._sums, self._batches = {}, 0

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; stop if one is not a finite number.

        This runs before the epoch's checkpoint is written, so the last good state survives.
        """
        means = self.means()
        for name, value in means.items():
            if not torch.isfinite(torch.tensor(value)):
                raise UserError(
                    f"{name} became {value} in epoch {self.current_epoch + 1}: training diverged. "
                    "The state after the epoch before is kept; lower the learning rates"
                )
        self.epoch_metrics = means | self.epoch_extras()
        step = (self.current_epoch + 1) * int(self.trainer.num_training_batches)
        self._log({f"epoch/{name}": value for name, value in self.epoch_metrics.items()}, step)

    def means(self) -> dict[str, float]:
        """Means over the epoch's batches so far."""
        return means_of_all({name: float(v / self._batches) for name, v in self._sums.items()})

    def epoch_extras(self) -> dict[str, float]:
        """Further scalars to measure at the end of an epoch."""
        return {}

    def _log(self, metrics: dict[str, float], step: int) -> None:
        row = {"epoch": float(self.current_epoch + 1)} | metrics
        for logger in self.loggers:
            logger.log_metrics(row, step)
