"""A picture of an attack: clean images, adversarial images, amplified differences."""

import io
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from funn.artifacts.files import replace_file

_SHOWN = 16


def write_examples(path: Path, clean: Tensor, adversarials: Tensor) -> None:
    """Write a PNG of three rows.

    Args:
        path: where to.
        clean: images (N, C, H, W) in [0, 1]; the first 16 are shown.
        adversarials: what an attack made of them.
    """
    clean, adversarials = clean[:_SHOWN], adversarials[:_SHOWN]
    if not len(clean):
        return
    difference = adversarials - clean
    # Each difference is scaled to the whole range, grey being no change.
    largest = difference.flatten(1).abs().amax(1).clamp(min=1e-12)
    amplified = 0.5 + 0.5 * difference / largest[:, None, None, None]
    rows = torch.cat([clean, adversarials, amplified]).nan_to_num()
    stream = io.BytesIO()
    save_image(make_grid(rows, nrow=len(clean), pad_value=0.5), stream, format="png")
    replace_file(path, stream.getvalue())
