"""MagNet (Meng and Chen 2017): two detectors and a reformer in front of a classifier.

Sizes and training as in the authors' code (Trevillie/MagNet): all convolutions 3x3 with 3 filters
and sigmoid.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from funn.config.build import build_module


class MagNet(nn.Module):
    """A classifier behind a reformer, with two detectors beside it.

    Detector I is the reformer's own auto-encoder, by the squared error; detector II is a shallower
    one, by the absolute error.

    Args:
        classifier: spec of the classifier that is defended.
        channels: of the images.
        filters: of each convolution.

    Attributes:
        classifier: the bare classifier: what an attacker who does not know of MagNet attacks.
    """

    thresholds: Tensor

    def __init__(self, classifier: Mapping[str, Any], channels: int, filters: int) -> None:
        super().__init__()
        self.classifier = build_module(classifier)
        self.reformer = nn.Sequential(
            *_convolution(channels, filters),
            nn.AvgPool2d(2),
            *_convolution(filters, filters),
            *_convolution(filters, filters),
            nn.Upsample(scale_factor=2),
            *_convolution(filters, filters),
            *_convolution(filters, channels),
        )
        self.shallow = nn.Sequential(
            *_convolution(channels, filters),
            *_convolution(filters, filters),
            *_convolution(filters, channels),
        )
        self.register_buffer("thresholds", torch.full((2,), torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of reformed images, from images (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.classifier(self.reformer(x))
        return logits

    def scores(self, x: Tensor) -> Tensor:
        """What the detectors measure of images (N, C, H, W): (N, 2), larger is more suspect."""
        squared = (x - self.reformer(x)).square().flatten(1).mean(1)
        absolute = (x - self.shallow(x)).abs().flatten(1).mean(1)
        return torch.stack((squared, absolute), dim=1)

    @torch.no_grad()
    def rejects(self, x: Tensor) -> Tensor:
        """Whether a detector rejects each image (N, C, H, W): bool (N,)."""
        return (self.scores(x) >= self.thresholds).any(1)


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Sigmoid()]
