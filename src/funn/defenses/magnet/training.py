"""MagNet's training: restore images from Gaussian noise that is drawn once; set the thresholds."""

from pathlib import Path

import torch
from torch import Tensor

from funn.config.schema import TrainConfig
from funn.data.batches import TensorBatches
from funn.data.dataset import ImageData
from funn.data.images import add_noise, split, to_unit
from funn.defenses.magnet.model import MagNet
from funn.method.objectives import mse
from funn.runtime.seeding import generator
from funn.training.checkpoint import Saved, load
from funn.training.module import StageModule, adam
from funn.training.stage import Fit, Stage

_BATCH = 1000


class MagNetStage(Stage):
    """Trains the auto-encoders of a MagNet around the classifier of the stage before.

    Args:
        filters: of each convolution.
        epochs: of training.
        batch_size: of training.
        lr: Adam's learning rate.
        noise: standard deviation of the noise on the training images.
        held_out: training images, the last ones, that set the thresholds and nothing else.
        drop_rate: share of them that each detector may reject.

    Raises:
        ValueError: for a value that is out of range.
    """

    keys = ()

    def __init__(
        self,
        filters: int,
        epochs: int,
        batch_size: int,
        lr: float,
        noise: float,
        held_out: int,
        drop_rate: float,
    ) -> None:
        if min(filters, epochs, batch_size, held_out) < 1 or not lr > 0 or not noise >= 0:
            raise ValueError("sizes and lr must be above 0, noise 0 or more")
        if not 0 < drop_rate < 1:
            raise ValueError(f"drop_rate={drop_rate} must be between 0 and 1")
        self.filters = filters
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.noise = noise
        self.held_out = held_out
        self.drop_rate = drop_rate

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """Fresh auto-encoders; noisy images, made once."""
        del folder
        assert parent is not None
        bare = load(parent)["classifier"]
        spec = {
            "_target_": "funn.defenses.magnet.model.MagNet",
            "classifier": dict(bare.spec),
            "channels": data.image_shape[0],
            "filters": self.filters,
        }
        magnet = Saved.fresh(spec, config.seed, "magnet").of(MagNet)
        magnet.module.classifier.load_state_dict(bare.module.state_dict())
        train, held_out = split(data.train, self.held_out)
        noisy = add_noise(to_unit(train.images), self.noise, generator(config.seed, "magnet"))
        module = MagNetTraining(
            magnet,
            held_out=held_out.floats(),
            drop_rate=self.drop_rate,
            lr=self.lr,
        )
        pairs = torch.stack((noisy, to_unit(train.images)), dim=1)
        return Fit(
            module=module,
            batches=TensorBatches(pairs, train.labels, self.batch_size, config.seed),
            epochs=self.epochs,
        )


class MagNetTraining(StageModule):
    """Train both auto-encoders to restore; then set the thresholds.

    Args:
        magnet: its classifier stays as it is.
        held_out: images (M, C, H, W) in [0, 1] that set the thresholds.
        drop_rate: share of them that each detector may reject.
        lr: Adam's learning rate.
    """

    def __init__(
        self,
        magnet: Saved[MagNet],
        *,
        held_out: Tensor,
        drop_rate: float,
        lr: float,
    ) -> None:
        super().__init__({"classifier": magnet})
        self.magnet = magnet.module
        self.magnet.classifier.requires_grad_(False)
        self.held_out = held_out
        self.drop_rate = drop_rate
        self.held_out_rejected = 0.0
        self.lr = lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over both auto-encoders."""
        free = [p for p in self.magnet.parameters() if p.requires_grad]
        return adam(free, self.lr)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The two errors on pairs (N, 2, C, H, W) of a noisy image and its clean one."""
        pairs, _ = batch
        noisy, clean = pairs.unbind(1)
        terms = {
            "reformer_loss": mse(self.magnet.reformer(noisy), clean),
            "shallow_loss": mse(self.magnet.shallow(noisy), clean),
        }
        self.record(terms, batch_idx)
        return sum(terms.values(), torch.zeros(()))

    def on_train_epoch_end(self) -> None:
        """Set the thresholds, of which the last epoch's stay; then log the epoch."""
        self.held_out_rejected = self.set_thresholds()
        super().on_train_epoch_end()

    def epoch_extras(self) -> dict[str, float]:
        """The share of the held-out images that the detectors together reject."""
        return {"held_out_rejected": self.held_out_rejected}

    @torch.no_grad()
    def set_thresholds(self) -> float:
        """Set the detectors' thresholds by the held-out images, and return the share rejected."""
        scores = torch.cat([self.magnet.scores(part) for part in self.held_out.split(_BATCH)])
        # The authors' rule: with n = rate * M the n-th largest score, and what reaches it is out.
        rank = max(int(len(scores) * self.drop_rate), 1)
        self.magnet.thresholds.copy_(scores.topk(rank, dim=0).values[-1])
        rejected = (scores >= self.magnet.thresholds).any(1).float().mean()
        return float(rejected)
