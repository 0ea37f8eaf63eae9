"""What `ImageData.load` may return: refused in one line, or converted to what all else takes."""

import math
from typing import Any

import torch
from torch import Tensor

from funn.errors import require

LabelledImages = tuple[Tensor, Tensor]


def checked_sets(loaded: Any) -> tuple[LabelledImages, LabelledImages]:
    """Check a training and a test set, each of images and labels.

    Args:
        loaded: the two sets, as a dataset's `load` returns them.

    Returns:
        The two sets: images, uint8 or float32 in [0, 1] (N, C, H, W), contiguous; labels, int64
        (N,).

    Raises:
        UserError: saying which set is meant, what was found, and what is expected.
    """
    require(
        _is_pair(loaded) and all(map(_is_pair, loaded)),
        "load() must return two sets, training and test, each as Images(images, labels)",
    )
    train, test = (
        (_checked_images(name, images), _checked_labels(name, labels, len(images)))
        for name, (images, labels) in zip(("training", "test"), loaded, strict=True)
    )
    shapes = [tuple(images.shape[1:]) for images, _ in (train, test)]
    require(
        shapes[0] == shapes[1],
        f"test images have (C, H, W) = {shapes[1]}, training images {shapes[0]}: "
        "they must be the same",
    )
    last, largest = int(train[1].max()), int(test[1].max())
    require(
        largest <= last,
        f"test labels go up to {largest}, and the training set has {last + 1} classes, "
        f"0 to {last}: number the classes of both sets alike",
    )
    return train, test


def _is_pair(found: Any) -> bool:
    return isinstance(found, tuple | list) and len(found) == 2


def _checked_images(name: str, images: Any) -> Tensor:
    tensor = _tensor(f"{name} images", images)
    shape = tuple(tensor.shape)
    require(
        len(shape) == 4 and min(shape) > 0,
        f"{name} images have shape {shape}: give (N, C, H, W), and at least one image",
    )
    require(
        tensor.dtype == torch.uint8 or tensor.is_floating_point(),
        f"{name} images are {_type(tensor)}: give uint8 (0 to 255), or floats in [0, 1]",
    )
    if tensor.dtype != torch.uint8:
        tensor = tensor.to(torch.float32)
        _check_range(name, *(float(end) for end in torch.aminmax(tensor)))
    return tensor.contiguous()


def _check_range(name: str, low: float, high: float) -> None:
    # Either end is NaN as soon as one pixel is.
    for holds, what in ((math.isnan(low), "NaN"), (math.isinf(high - low), "infinite numbers")):
        require(not holds, f"{name} images hold {what}: give finite numbers in [0, 1]")
    found = f"{name} images range from {low:.6g} to {high:.6g}, and floats must be in [0, 1]"
    require(low >= 0, f"{found}: keep any normalisation inside the network")
    if high < 2:  # what a resized image exceeds its range by
        remedy = "clip them, as images.clamp(0, 1)"
    elif high <= 255:
        remedy = "divide by 255, or give uint8"
    else:  # uint8 would wrap around
        remedy = "divide by the value of full brightness"
    require(high <= 1, f"{found}: {remedy}")


def _checked_labels(name: str, labels: Any, count: int) -> Tensor:
    tensor = _tensor(f"{name} labels", labels)
    shape = tuple(tensor.shape)
    one_hot = " (labels.argmax(1) of one-hot ones)" if len(shape) == 2 and shape[1] > 1 else ""
    require(
        len(shape) == 1,
        f"{name} labels have shape {shape}: give (N,), a class number for each image{one_hot}",
    )
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    require(whole, f"{name} labels are {_type(tensor)}: give class numbers, as labels.long()")
    require(
        len(tensor) == count,
        f"{name} labels are {len(tensor)}, and {name} images {count}: give a label for each image",
    )
    tensor = tensor.to(torch.int64)
    lowest = int(tensor.min())
    require(lowest >= 0, f"{name} labels go down to {lowest}: number the classes from 0")
    return tensor


def _tensor(what: str, found: Any) -> Tensor:
    require(
        isinstance(found, Tensor),
        f"{what} are of type {type(found).__name__}: give a torch.Tensor (torch.as_tensor)",
    )
    # Wherever they were loaded: images lie in the memory of the CPU, and are no parameters.
    tensor: Tensor = found.detach().cpu()
    return tensor


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
