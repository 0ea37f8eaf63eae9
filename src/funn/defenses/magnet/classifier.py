"""The classifier that MagNet's paper defends, trained as its authors' code does."""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.config.schema import TrainConfig
from funn.data.batches import TensorBatches
from funn.data.dataset import ImageData
from funn.data.images import split
from funn.runtime.seeding import seeded
from funn.training.checkpoint import Saved
from funn.training.module import StageModule
from funn.training.stage import Fit, Stage


class CarliniWagnerNet(nn.Sequential):
    """The classifier of MagNet's paper, which is that of Carlini and Wagner (2017).

    Args:
        channels: of the images.
        side: of the images, 16 or more.
        classes: number of classes.
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3), nn.ReLU()]
            layers += [nn.Conv2d(outputs, outputs, 3), nn.ReLU(), nn.MaxPool2d(2)]
        side = ((side - 4) // 2 - 4) // 2
        layers += [nn.Flatten(), nn.Linear(64 * side**2, 200), nn.ReLU(), nn.Dropout(0.5)]
        layers += [nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, classes)]
        super().__init__(*layers)


class CarliniWagnerStage(Stage):
    """Trains the classifier of MagNet's paper.

    Args:
        epochs: 50 in the paper.
        batch_size: 128 there.
        lr: of SGD with Nesterov's momentum of 0.9, 0.01 there.
        held_out: training images, the last ones, that are left to the thresholds.

    Raises:
        ValueError: for a value that is out of range.
    """

    keys = ()

    def __init__(self, epochs: int, batch_size: int, lr: float, held_out: int) -> None:
        if min(epochs, batch_size, held_out) < 1 or not lr > 0:
            raise ValueError("all options must be above 0")
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.held_out = held_out

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """A fresh classifier."""
        del parent, folder
        spec = {
            "_target_": "funn.defenses.magnet.classifier.CarliniWagnerNet",
            "channels": data.image_shape[0],
            "side": data.image_shape[1],
            "classes": data.classes,
        }
        classifier = Saved.fresh(spec, config.seed, "magnet_classifier")
        train, _ = split(data.train, self.held_out)
        module = ClassifierTraining(classifier, self.lr, config.seed)
        return Fit(
            module=module.train(),
            batches=TensorBatches(*train, self.batch_size, config.seed),
            epochs=self.epochs,
        )


class ClassifierTraining(StageModule):
    """Train a classifier by cross-entropy on clean images, by SGD with Nesterov's momentum.

    Args:
        classifier: fresh.
        lr: learning rate.
        seed: of the dropout, drawn from (seed, epoch, batch).
    """

    def __init__(self, classifier: Saved[nn.Module], lr: float, seed: int) -> None:
        super().__init__({"classifier": classifier})
        self.classifier = classifier.module
        self.lr = lr
        self.seed = seed

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, as in MagNet's code."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy on images (N, C, H, W) and labels (N,)."""
        x, labels = batch
        with seeded(self.seed, "dropout", self.current_epoch, batch_idx):
            logits = self.classifier(x)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.record({"loss": loss, "accuracy": accuracy}, batch_idx)
        return loss
