"""Logits of images with one pixel changed, without passing the whole image forward again.

A pixel reaches few positions of a first convolution's maps, and these few of the next one's. In
a small network that is a fifteenth of the arithmetic. `SinglePixel` and `LocalSearch` ask for
thousands of such images each.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.attacks.core.candidates import in_batches
from funn.attacks.core.interface import BatchedAttack, Model
from funn.attacks.pixel.known_layers import Chain, known_chain
from funn.runtime.seeding import generator

log = logging.getLogger(__name__)

# Images (owners) with the pixel (row-major) set to the values of its channels, to logits:
# (B,), (B,), (B, C) or (B, 1) -> (B, classes).
Probe = Callable[[Tensor, Tensor, Tensor], Tensor]

# Probes computed at a time: what the processor's caches hold. Not the batch size, for that counts
# whole images.
_CHUNK = 4096

# Images, and probes of each, that are compared with what the model itself says of them; and how far
# logits may be apart by rounding, as a share of their length.
_COMPARED, _PROBED, _ROUNDING = 4, 16, 1e-4


class Layers:
    """What probes need of a network whose layers are known.

    Args:
        chain: its layers.
    """

    def __init__(self, chain: Chain) -> None:
        self.windows: list[_Window] = []
        side = 1
        for convolution in chain.convolutions:
            self.windows.append(_Window(convolution, side))
            side = self.windows[-1].side
        linear = self.linear = chain.linear
        self.rest = chain.rest
        self.side = side
        self.slices = cache(partial(_slices, linear.weight, side))


def known_layers(model: nn.Module) -> Layers | None:
    """Return the layers of a network, or None if it is built in another way."""
    chain = known_chain(model)
    return None if chain is None else Layers(chain)


class PixelAttack(BatchedAttack):
    """An attack that asks for images with one pixel changed."""

    def known_layers(self, images: Tensor) -> Layers | None:
        """The model's layers, or None if they are not known or other code stands before them.

        Args:
            images: (N, C, H, W), on some of which what the layers give is compared with what the
                model itself does.
        """
        layers = None if self.normalization_used is not None else known_layers(self.model)
        if layers is None or agree(self.get_logits, layers, images, self.batch_size):
            return layers
        log.warning(
            "%s: what is computed from the layers of this model are not its logits: every changed "
            "image is passed forward instead",
            self.attack,
        )
        return None


@torch.no_grad()
def agree(model: Model, layers: Layers, images: Tensor, batch_size: int) -> bool:
    """Whether probes by the layers are, but for rounding, what a model says of changed images.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        layers: of the model.
        images: (N, C, H, W), of which the first few are probed, within [0, 1] and far outside.
        batch_size: most images in one forward pass.
    """
    images = images[:_COMPARED]
    if not len(images):
        return True
    draw = generator("pixel probes")
    owners = torch.arange(len(images)).repeat_interleave(_PROBED)
    pixels = torch.randint(images[0, 0].numel(), owners.shape, generator=draw)
    values = torch.tensor([0.0, 1.0, -9.5, 10.5]).repeat(len(owners) // 4)[:, None]
    given = owners.to(images.device), pixels.to(images.device), values.to(images)
    ours = probe_by_layers(layers, images)(*given)
    theirs = probe_by_images(model, images, batch_size)(*given)
    if ours.shape != theirs.shape:
        return False
    return bool(((ours - theirs).norm(dim=1) <= _ROUNDING * theirs.norm(dim=1)).all())


def pixel_probe(model: Model, layers: Layers | None, images: Tensor, batch_size: int) -> Probe:
    """Return what predicts images (N, C, H, W) with one pixel changed: the faster way there is."""
    if layers is None:
        return probe_by_images(model, images, batch_size)
    return probe_by_layers(layers, images)


def probe_by_images(model: Model, images: Tensor, batch_size: int) -> Probe:
    """Probe any model, by passing every changed image forward.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W).
        batch_size: most images in one forward pass.
    """

    def logits(owners: Tensor, pixels: Tensor, values: Tensor) -> Tensor:
        return model(with_pixel(images[owners], pixels, values))

    return partial(in_batches, logits, batch_size)


def with_pixel(images: Tensor, pixels: Tensor, values: Tensor) -> Tensor:
    """Set one pixel (B,) of each image (B, C, H, W) to values (B, C) or (B, 1)."""
    flat = images.flatten(2).clone()
    flat[torch.arange(len(flat), device=flat.device), :, pixels] = values.to(flat)
    return flat.view_as(images)


def probe_by_layers(layers: Layers, images: Tensor) -> Probe:
    """Probe a network whose layers are known, by what the change does to each of them.

    The logits are those of `probe_by_images`, but for rounding.

    Args:
        layers: of the network.
        images: (N, C, H, W).
    """
    width = images.shape[3]
    flat = images.flatten(2).transpose(1, 2)
    rows, x = [], images
    for window in layers.windows:
        maps = window.convolution(x)
        rows.append(window.rows(maps))
        x = F.relu(maps)
    features = layers.linear(x.flatten(1))
    slices = layers.slices(x.shape[1:])

    def part(owners: Tensor, pixels: Tensor, values: Tensor) -> Tensor:
        change = values.to(flat) - flat[owners, pixels]
        row, column = pixels // width, pixels % width
        for window, before in zip(layers.windows, rows, strict=True):
            change, row, column = window.passed(change, before, owners, row, column)
        shift = _grouped(change, _place(row, column, x.shape[3], layers.side), slices)
        logits: Tensor = layers.rest(shift.add_(features[owners]))
        return logits

    return partial(in_batches, part, _CHUNK)


class _Window:
    """The square of a convolution's maps that a change of a square of its input can reach.

    Args:
        convolution: with ReLU behind it.
        before: side of the square that changes in its input.

    Attributes:
        side: of the square that this reaches.
    """

    def __init__(self, convolution: nn.Conv2d, before: int) -> None:
        self.convolution = convolution
        self.kernel, self.stride, self.padding = _sizes(convolution)
        self.side = (before + self.kernel - 2) // self.stride + 1
        self.matrices = [
            self._matrix(before, *phase) for phase in product(range(self.stride), repeat=2)
        ]

    def rows(self, maps: Tensor) -> Tensor:
        """Lay out the convolution's output (N, O, H, W), before its ReLU, for `passed`.

        Returns:
            (N, H', W', O) with a rim, since a square may reach over the edge: minus infinity stays
            0 behind the ReLU, whatever is added.
        """
        rim = F.pad(maps, (self.side,) * 4, value=-torch.inf)
        return rim.permute(0, 2, 3, 1).contiguous()

    def passed(
        self, change: Tensor, rows: Tensor, owners: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pass changes through the convolution and its ReLU.

        Args:
            change: of squares of the input (B, before * before * C).
            rows: the output without the changes, from `rows`.
            owners: whose input it is (B,).
            row: first row of each square (B,).
            column: first column (B,).

        Returns:
            The change (B, side * side * O) of squares of the output; their first row and column.
        """
        (row, row_phase), (column, column_phase) = self._start(row), self._start(column)
        shift = _grouped(change, row_phase * self.stride + column_phase, self.matrices)
        height, width = rows.shape[1:3]
        corner = (owners * height + row + self.side) * width + column + self.side
        steps = torch.arange(self.side, device=corner.device)
        inside = (steps[:, None] * width + steps).flatten()
        value = rows.flatten(0, 2)[corner[:, None] + inside].flatten(1)
        return shift.add_(value).relu_().sub_(value.relu_()), row, column

    def _start(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """The first output that an input from `first` on reaches, and how the kernel lies there."""
        reach = first + self.padding - self.kernel + 1
        start = (reach + self.stride - 1) // self.stride
        return start, start * self.stride - reach

    def _matrix(self, before: int, row_phase: int, column_phase: int) -> Tensor:
        """The convolution as a matrix (before * before * C, side * side * O) between squares."""
        weight = self.convolution.weight.detach()
        outputs, channels = weight.shape[:2]
        matrix = weight.new_zeros(before, before, channels, self.side, self.side, outputs)
        for i, j, u, v in product(range(before), range(before), range(self.side), range(self.side)):
            row = i + self.kernel - 1 - row_phase - u * self.stride
            column = j + self.kernel - 1 - column_phase - v * self.stride
            if 0 <= row < self.kernel and 0 <= column < self.kernel:
                matrix[i, j, :, u, v, :] = weight[:, :, row, column].t()
        return matrix.view(before * before * channels, -1)


def _slices(weight: Tensor, side: int, shape: torch.Size) -> list[Tensor]:
    """The parts of a linear layer (F, O * H * W) that see each square, by `_place`."""
    rim = F.pad(weight.detach().view(-1, *shape), (side,) * 4).permute(2, 3, 1, 0)
    return [
        rim[row : row + side, column : column + side].reshape(-1, len(weight))
        for row in range(shape[1] + side + 1)
        for column in range(shape[2] + side + 1)
    ]


def _place(row: Tensor, column: Tensor, width: int, side: int) -> Tensor:
    """Number the squares of maps of some width: they start from -side to just past the edge."""
    return (row + side) * (width + side + 1) + column + side


def _grouped(rows: Tensor, group: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each row (B, I) by the matrix (I, J) of its group (B,)."""
    order = group.argsort(stable=True)
    sizes = group.bincount(minlength=len(matrices)).tolist()
    pieces = rows[order].split(sizes)
    products = torch.cat([piece @ matrix for piece, matrix in zip(pieces, matrices, strict=True)])
    return torch.empty_like(products).index_copy_(0, order, products)


def _sizes(convolution: nn.Conv2d) -> tuple[int, int, int]:
    """Kernel, stride and padding."""
    return convolution.kernel_size[0], convolution.stride[0], int(convolution.padding[0])
