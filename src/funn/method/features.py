"""The features of many images at once."""

import torch
from torch import Tensor, nn

from funn.data.images import to_unit


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Return the features (N, F) of images (N, C, H, W), uint8 or float in [0, 1]."""
    return torch.cat([encoder(to_unit(batch)) for batch in images.split(batch_size)])


def spread(features: Tensor) -> float:
    """The root mean square distance of features (N, F) from their mean: the unit of a margin.

    Encoders differ in the scale of their features by any factor; a margin is to mean the same.
    """
    return float((features - features.mean(0)).square().sum(1).mean().sqrt())
