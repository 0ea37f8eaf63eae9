"""Images in memory as one tensor."""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from funn.errors import require

# Channels, height, width.
ImageShape = tuple[int, int, int]


class Images(NamedTuple):
    """A set of labelled images.

    Attributes:
        images: (N, C, H, W), uint8 from 0 to 255, or float32 in [0, 1].
        labels: int64 (N,), from 0.
    """

    images: Tensor
    labels: Tensor

    def floats(self, first: int | None = None) -> Tensor:
        """The first images (all by default) as float32 in [0, 1]."""
        return to_unit(self.images[:first])

    def unlabelled(self) -> "Images":
        """The images with their places, 0 to N - 1, instead of labels: so that no label is used."""
        return Images(self.images, torch.arange(len(self.images)))

    def checksum(self) -> str:
        """Return the SHA-256 of the pixels and labels, their types and shapes, in order."""
        digest = hashlib.sha256()
        for tensor in self:
            # The same bytes are other images in another type or shape.
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def to_unit(images: Tensor) -> Tensor:
    """Turn uint8 pixels (0 to 255) into float32 in [0, 1]; leave floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def add_noise(x: Tensor, sigma: float, draw: torch.Generator) -> Tensor:
    """Add Gaussian noise to images (N, C, H, W), and clip them to [0, 1]."""
    return (x + sigma * torch.randn(x.shape, generator=draw).to(x)).clamp(0, 1)


def split(images: Images, held_out: int) -> tuple[Images, Images]:
    """Cut the last `held_out` images off.

    Raises:
        UserError: if none would be left.
    """
    kept = len(images.labels) - held_out
    require(kept > 0, f"held_out={held_out} leaves none of {len(images.labels)} training images")
    first = Images(images.images[:kept], images.labels[:kept])
    return first, Images(images.images[kept:], images.labels[kept:])
