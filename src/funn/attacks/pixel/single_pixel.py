"""Single-pixel attack (section 2.1 of the paper; Foolbox 1.x's SinglePixelAttack), batched."""

from functools import partial

import torch
from torch import Tensor, nn

from funn.attacks.core.candidates import first_fooling
from funn.attacks.core.interface import Model
from funn.attacks.core.randomness import image_generator
from funn.attacks.core.result import AttackResult
from funn.attacks.core.state import predict_clean
from funn.attacks.pixel.incremental import (
    Layers,
    PixelAttack,
    Probe,
    pixel_probe,
    probe_by_images,
    with_pixel,
)


class SinglePixel(PixelAttack):
    """The single-pixel attack behind the torchattacks interface.

    Args:
        model: images in [0, 1] to logits.
        max_pixels: most pixels of each image that are tried; as many as it has make the attack
            exhaustive, and its success independent of the seed.
        seed: decides, with the image's bytes, the order of the pixels.

    Raises:
        ValueError: for a value that is out of range.
    """

    images_per_part = 200

    def __init__(self, model: nn.Module, max_pixels: int = 1000, seed: int = 0) -> None:
        if max_pixels < 1:
            raise ValueError(f"max_pixels={max_pixels} must be 1 or more")
        super().__init__("SinglePixel", model)
        self.max_pixels = max_pixels
        self.seed = seed

    def attack_images(self, model: Model, images: Tensor, labels: Tensor) -> AttackResult:
        """Run `single_pixel` with this attack's settings."""
        return single_pixel(
            model,
            images,
            labels,
            max_pixels=self.max_pixels,
            seed=self.seed,
            batch_size=self.batch_size,
            layers=self.known_layers(images),
        )


def single_pixel(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    max_pixels: int,
    seed: int,
    batch_size: int,
    layers: Layers | None = None,
) -> AttackResult:
    """Set one pixel, in all its channels, to 0 or to 1.

    The pixels come in a random order, each with 0 before 1; the first success is returned. A
    failure is returned unchanged. A value that the pixel already has is not tried.

    Args:
        model: images (N, C, H, W) to logits (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        max_pixels: see `SinglePixel`.
        seed: see `SinglePixel`.
        batch_size: most images in one forward pass.
        layers: of the model, where they are known: what it makes of a changed pixel is then
            computed from what it makes of the image, and each success is confirmed by the model
            itself. Each still counts as a forward pass.

    Returns:
        The result; `step` counts the values up to the successful one. `forwards` is a little more,
        since several values are tried at once.
    """
    state, active = predict_clean(model, images, labels, batch_size)
    codes, counts = _candidates(images, active, max_pixels, seed)

    def ask(probe: Probe, owners: Tensor, positions: Tensor) -> Tensor:
        code = codes[owners, positions]
        return probe(owners, code // 2, (code % 2)[:, None])

    predict = partial(ask, pixel_probe(model, layers, images, batch_size))
    itself = partial(ask, probe_by_images(model, images, batch_size))
    first = first_fooling(predict, labels, counts, state, None if layers is None else itself)
    found = (first >= 0).nonzero()[:, 0]
    if len(found):
        code = codes[found, first[found]]
        state.adversarials[found] = with_pixel(images[found], code // 2, (code % 2)[:, None])
    state.success[found] = True
    state.step[found] = first[found] + 1
    return state.result()


def _candidates(
    images: Tensor, active: Tensor, max_pixels: int, seed: int
) -> tuple[Tensor, Tensor]:
    """What to try on each image, in order.

    Returns:
        codes (N, M), 2 * pixel + value; how many of them count (N,), 0 for an image that is not
        active.
    """
    flat = images.flatten(2)
    pixels = flat.shape[2]
    order = torch.zeros(len(images), min(pixels, max_pixels), dtype=torch.int64)
    for row in active.tolist():
        draw = image_generator("single pixel", seed, images[row])
        order[row] = torch.randperm(pixels, generator=draw)[:max_pixels]
    codes = torch.stack((2 * order, 2 * order + 1), dim=2).flatten(1).to(images.device)
    idle = torch.stack(((flat == 0).all(1), (flat == 1).all(1)), dim=2).flatten(1)
    idle = idle.gather(1, codes)
    counts = torch.zeros_like(codes[:, 0])
    counts[active] = (~idle).sum(1)[active]
    # Those to try first, in their order.
    return codes.gather(1, idle.int().argsort(dim=1, stable=True)), counts
