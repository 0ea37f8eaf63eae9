"""The networks of the paper (section 4.1 and Figure 3): auto-encoders, head, classifier.

The text of the paper gives 3x3 convolutions, stride 2, ReLU, a feature layer with no activation
and `(1 + tanh) / 2` at the end. It does not give the number of layers, the channels, the size of
the features or the length of the attacker's random vector: those are our choice, each a
configuration value.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from funn.config.build import build_module
from funn.data.images import ImageShape


class HalfTanh(nn.Module):
    """The output activation of section 4.1, `(1 + tanh(x)) / 2`: any real to [0, 1].

    Written as the sigmoid of `2 x`, the same function: it takes two passes over the images instead
    of three, and keeps its slope where `1 + tanh(x)` is rounded to 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor of any shape into [0, 1]."""
        return torch.sigmoid(2 * x)


class AutoEncoder(nn.Module):
    """An encoder to a flat feature vector, and a generator back to an image.

    Attributes:
        encoder: (N, C, H, W) in [0, 1] to features (N, F), with no activation at the end.
        generator: (N, F + noise) to (N, C, H, W) in [0, 1].
        features: F.
        noise: length of the uniform [0, 1) vector that is concatenated to the features
            (section 3.2). 0 for the defender.
    """

    encoder: nn.Module
    generator: nn.Module

    def __init__(self, features: int, noise: int) -> None:
        super().__init__()
        self.features = features
        self.noise = noise

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Regenerate images.

        Args:
            x: images (N, C, H, W) in [0, 1].
            noise: uniform [0, 1) vectors (N, noise); None when the network takes none.

        Returns:
            Images (N, C, H, W) in [0, 1].
        """
        return self.generate(self.encoder(x), noise)

    def generate(self, code: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of features (N, F) and, where it takes some, noise."""
        assert (noise is not None) == (self.noise > 0)
        if noise is not None:
            code = torch.cat([code, noise], dim=1)
        images: Tensor = self.generator(code)
        return images


class DenseAutoEncoder(AutoEncoder):
    """`model=paper`: strided convolutions, then a dense feature layer.

    Args:
        image_shape: (C, H, W).
        channels: output channels of each 3x3 stride-2 convolution.
        features: length F of the feature vector.
        noise: length of the uniform vector (0: none).

    Raises:
        ValueError: for sizes that are not positive.
    """

    def __init__(
        self, image_shape: ImageShape, channels: Sequence[int], features: int, noise: int = 0
    ) -> None:
        _require_sizes(noise, channels=channels, features=[features])
        super().__init__(features, noise)
        widths = [image_shape[0], *channels]
        shapes = _shapes(image_shape, channels)
        flat = channels[-1] * shapes[-1][0] * shapes[-1][1]
        self.encoder = nn.Sequential(
            *_downsampling(widths), nn.ReLU(), nn.Flatten(), nn.Linear(flat, features)
        )
        self.generator = nn.Sequential(
            nn.Linear(features + noise, flat),
            nn.ReLU(),
            nn.Unflatten(1, (channels[-1], *shapes[-1])),
            *_upsampling(widths[::-1], shapes[::-1]),
            HalfTanh(),
        )


class ConvAutoEncoder(AutoEncoder):
    """`model=conv_features`: the features are the maps of one more strided convolution.

    Args:
        image_shape: (C, H, W).
        channels: output channels of each 3x3 stride-2 convolution before the feature layer.
        maps: channels of the feature layer; F = maps x height x width there.
        noise: length of the uniform vector. It becomes further channels of the generator's
            input, so it must be a multiple of height x width of the feature layer.

    Raises:
        ValueError: for sizes that are not positive, or a noise length that fills no channel.
    """

    def __init__(
        self, image_shape: ImageShape, channels: Sequence[int], maps: int, noise: int = 0
    ) -> None:
        _require_sizes(noise, channels=channels, maps=[maps])
        widths = [image_shape[0], *channels, maps]
        shapes = _shapes(image_shape, widths[1:])
        height, width = shapes[-1]
        if noise % (height * width):
            raise ValueError(
                f"noise={noise} must be a multiple of {height * width}, "
                f"the positions of the {height}x{width} feature maps"
            )
        super().__init__(maps * height * width, noise)
        maps_in = maps + noise // (height * width)
        self.encoder = nn.Sequential(*_downsampling(widths), nn.Flatten())
        self.generator = nn.Sequential(
            nn.Unflatten(1, (maps_in, height, width)),
            *_upsampling([maps_in, *widths[-2::-1]], shapes[::-1]),
            HalfTanh(),
        )


class Head(nn.Sequential):
    """The small classifier on the features (section 4.1): dense 64 with ReLU, dense 10.

    Args:
        features: length F of the feature vector.
        classes: number of classes.
        hidden: width of each hidden dense layer.

    Raises:
        ValueError: for a width that is not positive.
    """

    def __init__(self, features: int, classes: int, hidden: Sequence[int]) -> None:
        _require_sizes(0, hidden=hidden)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([features, *hidden]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers, nn.Linear([features, *hidden][-1], classes))


class Classifier(nn.Sequential):
    """An encoder with a head on top: images (N, C, H, W) in [0, 1] to logits (N, classes).

    Args:
        autoencoder: spec of the auto-encoder whose encoder is used.
        head: spec of the head.
    """

    encoder: nn.Module
    head: nn.Module

    def __init__(self, autoencoder: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        encoder = build_module(autoencoder).encoder
        assert isinstance(encoder, nn.Module)
        super().__init__(OrderedDict(encoder=encoder, head=build_module(head)))


def _require_sizes(noise: int, **sizes: Sequence[int]) -> None:
    if noise < 0:
        raise ValueError(f"noise={noise} must be 0 or more")
    for name, values in sizes.items():
        if not all(value > 0 for value in values):
            raise ValueError(f"{name}={list(values)} must be above 0")


def _shapes(image_shape: ImageShape, channels: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of the image and after each 3x3 stride-2 padding-1 convolution."""
    shapes = [image_shape[1:]]
    for _ in channels:
        height, width = shapes[-1]
        shapes.append(((height + 1) // 2, (width + 1) // 2))
    return shapes


def _downsampling(widths: Sequence[int]) -> list[nn.Module]:
    """3x3 stride-2 convolutions with ReLU between, none after the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.ReLU()] * bool(layers)
        layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
    return layers


def _upsampling(widths: Sequence[int], shapes: Sequence[tuple[int, int]]) -> list[nn.Module]:
    """The transposed convolutions that undo `_downsampling`, ReLU between, none after the last.

    The output padding restores sizes that a stride of 2 rounded up (28, 14, 7, 4 and back).
    """
    layers: list[nn.Module] = []
    for (inputs, outputs), (small, large) in zip(pairwise(widths), pairwise(shapes), strict=True):
        layers += [nn.ReLU()] * bool(layers)
        padding = tuple(size - (2 * half - 1) for half, size in zip(small, large, strict=True))
        layers.append(
            nn.ConvTranspose2d(
                inputs,
                outputs,
                3,
                stride=2,
                padding=1,
                output_padding=padding,  # type: ignore[arg-type]
            )
        )
    return layers
