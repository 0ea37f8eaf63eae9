"""The classifier on frozen features (paper section 3.3): clean images and labels only."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.data import to_unit
from funn.stage_module import Spec, StageModule


class HeadTraining(StageModule):
    """Train a head by cross-entropy on features that were computed once.

    Args:
        head: (N, F) features to (N, classes) logits.
        saved: the classifier whose head this is, with its spec.
        lr: Adam's learning rate.
        margin: how far, as an L2 norm (`classifier.margin` of the configuration times the
            features' `spread`), each feature vector is moved up the gradient of the
            cross-entropy before the head learns from it. 0 is the paper's training. No image is
            attacked; only the head sees the labels.
        log_every: batches between two logged points.
    """

    shares_batches = True

    def __init__(
        self,
        head: nn.Module,
        saved: tuple[Spec, nn.Module],
        *,
        lr: float,
        margin: float,
        log_every: int,
    ) -> None:
        super().__init__({"classifier": saved}, log_every)
        self.head = head
        self.lr = lr
        self.margin = margin

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the head alone."""
        return torch.optim.Adam(self.head.parameters(), lr=self.lr)

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


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Return the features (N, F) of images (N, C, H, W), uint8 or float in [0, 1]."""
    return torch.cat([encoder(to_unit(batch)) for batch in images.split(batch_size)])


def spread(features: Tensor) -> float:
    """The root mean square distance of features (N, F) from their mean: the unit of a margin.

    Encoders differ in the scale of their features by any factor; a margin is to mean the same.
    """
    return float((features - features.mean(0)).square().sum(1).mean().sqrt())
