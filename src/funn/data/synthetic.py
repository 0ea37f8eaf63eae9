"""`data=synthetic`: small generated digits, for tests and for trials without a network."""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from funn.data.dataset import ImageData
from funn.data.images import Images
from funn.runtime.seeding import generator

# A 5x7 dot-matrix font.
_FONT = (
    ("01110", "10001", "10011", "10101", "11001", "10001", "01110"),
    ("00100", "01100", "00100", "00100", "00100", "00100", "01110"),
    ("01110", "10001", "00001", "00010", "00100", "01000", "11111"),
    ("11111", "00010", "00100", "00010", "00001", "10001", "01110"),
    ("00010", "00110", "01010", "10010", "11111", "00010", "00010"),
    ("11111", "10000", "11110", "00001", "00001", "10001", "01110"),
    ("00110", "01000", "10000", "11110", "10001", "10001", "01110"),
    ("11111", "00001", "00010", "00100", "01000", "01000", "01000"),
    ("01110", "10001", "10001", "01110", "10001", "10001", "01110"),
    ("01110", "10001", "10001", "01111", "00001", "00010", "01100"),
)
_SIZE = 28


class SyntheticDigits(ImageData):
    """Digits of a dot-matrix font, turned, scaled, sheared and shifted at random, 28x28 grey.

    The same sizes give the same images on every machine and under every seed.

    Args:
        data_dir: not used; nothing is stored.
        train_size: number of training images.
        test_size: number of test images.
        val_size: training images held out.

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(self, data_dir: Path, train_size: int, test_size: int, val_size: int = 0) -> None:
        super().__init__(data_dir, val_size)
        if min(train_size, test_size) <= 0:
            raise ValueError("train_size and test_size must be above 0")
        self.sizes = (train_size, test_size)

    def load(self) -> tuple[Images, Images]:
        """Draw the training and the test set."""
        train, test = self.sizes
        return _draw(train, "train"), _draw(test, "test")


def _draw(count: int, split: str) -> Images:
    draw = generator("synthetic digits", split)
    labels = torch.arange(count) % 10
    glyphs = torch.tensor([[[float(dot) for dot in row] for row in glyph] for glyph in _FONT])
    images = F.pad(glyphs[labels].unsqueeze(1), (2, 2, 1, 1))
    images = F.interpolate(images, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False)
    grid = F.affine_grid(_affine(count, draw), [count, 1, _SIZE, _SIZE], align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False)
    # Steeper than linear, so that strokes are bright and the background is black, as in MNIST.
    images = (2 * images - 0.3).clamp(0, 1)
    return Images((images * 255).round().to(torch.uint8), labels)


def _affine(count: int, draw: torch.Generator) -> Tensor:
    """Random inverse maps (N, 2, 3): turn +-0.2 rad, scale 0.8 to 1.1, shear +-0.2, shift."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=draw)

    angle, scale, shear = uniform(-0.2, 0.2), 1 / uniform(0.8, 1.1), uniform(-0.2, 0.2)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos, shear - sin, uniform(-0.15, 0.15), sin, cos, uniform(-0.15, 0.15)]
    return torch.stack(rows, dim=1).view(count, 2, 3)
