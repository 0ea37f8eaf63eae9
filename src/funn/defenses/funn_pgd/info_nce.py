"""An aim that tells images apart: the contrast of InfoNCE (van den Oord et al. 2018)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.data.images import to_unit
from funn.defenses.funn_pgd.objectives import Aim, Contest
from funn.errors import above, at_least, require
from funn.method.features import encode
from funn.method.networks import AutoEncoder
from funn.runtime.linear import products


@dataclass(frozen=True)
class Views:
    """Random affine views of images, as far as a person still reads the same digit.

    Attributes:
        rotation: at most, in degrees, either way.
        shift: at most, in pixels, along each axis.
        scale: at most, as a share of the size, larger or smaller.
    """

    rotation: float
    shift: float
    scale: float

    def draw(self, x: Tensor, draw: torch.Generator) -> Tensor:
        """A view of each image (N, C, H, W) in [0, 1]; what comes in from outside is black."""
        turn, size, right, down = (2 * torch.rand((4, len(x)), generator=draw) - 1).to(x)
        turn, size = turn * math.radians(self.rotation), 1 + size * self.scale
        cosine, sine = turn.cos() / size, turn.sin() / size
        # In units of half the image's width and height, as affine_grid wants them.
        height, width = x.shape[2:]
        right, down = 2 * self.shift * right / width, 2 * self.shift * down / height
        rows = (
            torch.stack([cosine, -sine * height / width, right], 1),
            torch.stack([sine * width / height, cosine, down], 1),
        )
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


class Contrast(Aim):
    """Which image of the batch a view comes from, or one much like it.

    The attacked view of an image is to be nearer, by the cosine of the features, to another view
    than to the other views that the batch holds: the cross-entropy of `logits` for the right one.

    Args:
        images: all training images (N, C, H, W).
        views: what is drawn of each.
        temperature: that the cosines are divided by.
        neighbours: the other view is of the image itself, or of one of so many images whose
            features are most like its own, found anew before each epoch (as in NNCLR, Dwibedi et
            al. 2021). 0: always of the image itself.

    Raises:
        UserError: for more neighbours than there are other images.
    """

    def __init__(self, images: Tensor, views: Views, temperature: float, neighbours: int) -> None:
        super().__init__()
        require(
            neighbours < len(images),
            f"attacker.contrast.neighbours={neighbours} must be less than the {len(images)} images",
        )
        self.images = images
        self.views = views
        self.temperature = temperature
        self.count = neighbours
        self.alike = torch.arange(len(images))[:, None]

    def begin_epoch(self, encoder: nn.Module) -> None:
        """Find each image's neighbours by the features as they are now."""
        if self.count:
            device = next(encoder.parameters()).device
            self.alike = most_alike(encode(encoder, self.images.to(device)), self.count)

    def contest(
        self, defender: AutoEncoder, x: Tensor, places: Tensor, draw: torch.Generator
    ) -> Contest:
        """See `Aim`; the goals are rows of the batch."""
        columns = torch.randint(self.alike.shape[1], (len(x),), generator=draw)
        mates = to_unit(self.images[self.alike[places.cpu(), columns].cpu()]).to(x)
        views, others = self.views.draw(x, draw), self.views.draw(mates, draw)
        keys = F.normalize(defender.encoder(others), dim=1)

        def distance(given: Tensor, rows: Tensor) -> Tensor:
            logits = F.normalize(defender.encoder(given), dim=1) @ keys.T / self.temperature
            return F.cross_entropy(logits, rows, reduction="none")

        return Contest(views, torch.arange(len(x), device=x.device), distance)


def most_alike(features: Tensor, count: int, rows: int = 100) -> Tensor:
    """Each image's likest by the cosine of the features, itself among them (N, count + 1).

    Args:
        features: (N, F).
        count: of others, less than N.
        rows: how many are compared with all at a time: few, so that what comes out of it stays in a
            cache.
    """
    features = F.normalize(features, dim=1)
    alike = torch.empty((len(features), count + 1), dtype=torch.int64, device=features.device)
    for some, found in zip(features.split(rows), alike.split(rows), strict=True):
        # Into its place: a small result that stays behind each large one would break up the memory.
        found.copy_(products(some, features).topk(count + 1, dim=1).indices)
    return alike


def read_contrast(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Contrast` in `attacker.contrast` of the configuration.

    Raises:
        UserError: for a value that is out of range.
    """
    temperature, neighbours = options["temperature"], options["neighbours"]
    above("attacker.contrast.temperature", temperature, 0)
    at_least("attacker.contrast.neighbours", neighbours, 0)
    for name, value in options["views"].items():
        at_least(f"attacker.contrast.views.{name}", value, 0)
    require(options["views"]["scale"] < 1, "attacker.contrast.views.scale must be below 1")
    views = Views(**options["views"])
    return {"views": views, "temperature": temperature, "neighbours": neighbours}
