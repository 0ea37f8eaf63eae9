"""Supervised adversarial training (Madry et al. 2017): the ceiling for features without labels.

Encoder and head have FUNN's sizes. They are trained together, with labels, on PGD's images.
"""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from funn.attacks.core.ball import projected_gradient_ascent
from funn.attacks.core.norms import Norm
from funn.config.schema import TrainConfig
from funn.data.dataset import ImageData
from funn.errors import require
from funn.method.classifier import classifier_spec
from funn.method.networks import Classifier
from funn.runtime.seeding import generator
from funn.training.checkpoint import Saved
from funn.training.module import StageModule, adam
from funn.training.stage import Fit, Stage


class AdversarialTraining(Stage):
    """`defense=adversarial_training` and `defense=adversarial_training_linf`.

    Args:
        norm: "l2" or "linf".
        eps: radius of the ball, in that norm.
        steps: of PGD, each of 2.5 * eps / steps, from a random start.
        warm_up: share of the epochs over which the radius grows to `eps`. Without it a small
            network never leaves chance level at a large radius.

    Raises:
        ValueError: for a value that is out of range.
    """

    keys = ("classifier", "head", "model")

    def __init__(self, norm: Norm, eps: float, steps: int, warm_up: float) -> None:
        if norm not in ("l2", "linf"):
            raise ValueError(f"norm={norm} must be l2 or linf")
        if not eps > 0 or steps < 1 or not 0 <= warm_up <= 1:
            raise ValueError("eps must be above 0, steps 1 or more, warm_up from 0 to 1")
        self.norm: Norm = norm
        self.eps = eps
        self.steps = steps
        self.warm_up = warm_up

    def check(self, config: TrainConfig) -> None:
        """Require a head that learns from images.

        Raises:
            UserError: for a margin, which is of a head on frozen features.
        """
        require(
            config.classifier.margin == 0,
            f"classifier.margin={config.classifier.margin} moves frozen features, and here there "
            "are none: add classifier.margin=0",
        )

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """A fresh classifier."""
        del parent, folder
        autoencoder = dict(config.model) | {"image_shape": list(data.image_shape), "noise": 0}
        spec = classifier_spec(autoencoder, config.head, data.classes)
        settings = config.classifier
        module = PGDTraining(
            Saved.fresh(spec, config.seed, "adversarial_training").of(Classifier),
            norm=self.norm,
            eps=self.eps,
            steps=self.steps,
            warm_epochs=self.warm_up * settings.epochs,
            lr=settings.lr,
            seed=config.seed,
        )
        return Fit.on_images(module, data.train, settings, config.seed)


class PGDTraining(StageModule):
    """Train a classifier on the images that PGD makes of each batch.

    Args:
        classifier: fresh.
        norm: of the ball.
        eps: its radius.
        steps: of PGD.
        warm_epochs: epochs over which the radius grows to `eps`.
        lr: Adam's learning rate.
        seed: of the starts, drawn from (seed, epoch, batch).
    """

    def __init__(
        self,
        classifier: Saved[Classifier],
        *,
        norm: Norm,
        eps: float,
        steps: int,
        warm_epochs: float,
        lr: float,
        seed: int,
    ) -> None:
        super().__init__({"classifier": classifier})
        self.classifier = classifier.module
        self.norm: Norm = norm
        self.eps = eps
        self.steps = steps
        self.warm_epochs = warm_epochs
        self.lr = lr
        self.seed = seed

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over encoder and head."""
        return adam(self.classifier.parameters(), self.lr)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy on the attacked images (N, C, H, W) with labels (N,)."""
        x, labels = batch
        attacked = self.attack(x, labels, batch_idx)
        logits: Tensor = self.classifier(attacked)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.record({"loss": loss, "robust_accuracy": accuracy}, batch_idx)
        return loss

    def attack(self, x: Tensor, labels: Tensor, batch_idx: int) -> Tensor:
        """PGD on images (N, C, H, W) in [0, 1] with labels (N,), by the network as it is now."""
        done = self.current_epoch + batch_idx / max(int(self.trainer.num_training_batches), 1)
        eps = self.eps * min(1.0, done / self.warm_epochs) if self.warm_epochs else self.eps
        draw = generator(self.seed, "adversarial_training", self.current_epoch, batch_idx)
        self.classifier.requires_grad_(False)
        attacked = projected_gradient_ascent(
            lambda x: F.cross_entropy(self.classifier(x), labels, reduction="sum"),
            x, self.norm, eps, self.steps, draw,
        )  # fmt: skip
        self.classifier.requires_grad_(True)
        return attacked
