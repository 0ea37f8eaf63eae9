"""The classifier on frozen features (paper section 3.3): clean images and labels only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.config.build import build_module
from funn.config.schema import TrainConfig
from funn.data.batches import TensorBatches
from funn.data.dataset import ImageData
from funn.method.features import encode, spread
from funn.method.networks import AutoEncoder, Classifier
from funn.training.checkpoint import Saved, load
from funn.training.module import StageModule, adam
from funn.training.stage import Fit, Stage


class HeadTraining(StageModule):
    """Train a head by cross-entropy on features that were computed once.

    Args:
        head: (N, F) features to (N, classes) logits.
        saved: the classifier whose head this is.
        lr: Adam's learning rate.
        margin: how far, as an L2 norm (`classifier.margin` of the configuration times the
            features' `spread`), each feature vector is moved up the gradient of the
            cross-entropy before the head learns from it. 0 is the paper's training. No image is
            attacked; only the head sees the labels.
    """

    shares_batches = True

    def __init__(
        self,
        head: nn.Module,
        saved: Saved[nn.Module],
        *,
        lr: float,
        margin: float,
    ) -> None:
        super().__init__({"classifier": saved})
        self.head = head
        self.lr = lr
        self.margin = margin

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the head alone."""
        return adam(self.head.parameters(), self.lr)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy on features (N, F) and labels (N,)."""
        features, labels = batch
        if self.margin:
            features = self.moved(features, labels)
        logits: Tensor = self.head(features)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.record({"loss": loss, "accuracy": accuracy}, batch_idx)
        return loss

    def moved(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (N, F) after one step of length `margin` towards the nearest mistake."""
        start = features.detach().requires_grad_()
        loss = F.cross_entropy(self.head(start), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, start)
        return features + self.margin * F.normalize(gradient, dim=1)


class ClassifierStage(Stage):
    """The head on the defender's frozen encoder (section 3.3 and 4.1)."""

    keys = ("classifier", "head")

    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """A fresh head; the encoder's features of the training images, computed once."""
        del folder
        assert parent is not None
        defender = load(parent)["defender"].of(AutoEncoder)
        spec = classifier_spec(defender.spec, config.head, data.classes)
        saved = Saved.fresh(spec, config.seed, "head").of(Classifier)
        classifier = saved.module
        classifier.encoder.load_state_dict(defender.module.encoder.state_dict())
        features = encode(classifier.encoder, data.train.images)
        settings = config.classifier
        return Fit(
            module=HeadTraining(
                classifier.head,
                saved,
                lr=settings.lr,
                margin=settings.margin * spread(features),
            ),
            batches=TensorBatches(features, data.train.labels, settings.batch_size, config.seed),
            epochs=settings.epochs,
        )


def classifier_spec(
    autoencoder: Mapping[str, Any], head: Mapping[str, Any], classes: int
) -> dict[str, Any]:
    """The plain numbers that build a classifier on an auto-encoder's encoder."""
    features = build_module(autoencoder).features
    return {
        "_target_": "funn.method.networks.Classifier",
        "autoencoder": dict(autoencoder),
        "head": dict(head) | {"features": features, "classes": classes},
    }
