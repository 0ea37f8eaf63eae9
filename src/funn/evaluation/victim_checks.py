"""What must hold of a classifier and of its data before the first attack: else no figure."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from funn.attacks.core.interface import check_logits
from funn.data.dataset import ImageData
from funn.data.images import Images
from funn.errors import UserError, require
from funn.evaluation.records.metrics import percent
from funn.evaluation.victims import Victim

log = logging.getLogger(__name__)

# As a share of what is left above guessing: so little more is no classifier, or not of this data.
_NEAR_CHANCE = 0.1
# Relative difference of logits that rounding explains, and that of two passes should not exceed.
_ROUNDING = 1e-4


@torch.no_grad()
def check(victim: Victim, data: ImageData) -> None:
    """Require that a classifier gives logits of its data, in float32 and in float64.

    What changes its input in place is given a copy from then on. What answers otherwise the second
    time is told.

    Raises:
        UserError: for outputs of another shape, probabilities, what cannot be run, or images of
            other channels, which the model broadcasts.
    """
    images, name = victim.probe, victim.title
    given = images.clone()
    try:
        with _Broadcasts(given) as seen:
            logits = victim.model(given)
        again = victim.model(images.clone())
        victim.judge(images.double())
    except Exception as error:  # whatever a user's code raises
        raise UserError(f"{name} cannot classify {tuple(images.shape)}: {error}") from error
    if seen.widened:
        raise UserError(
            f"{name} makes {seen.widened} channels of the {images.shape[1]} of "
            f"{type(data).__name__} by broadcasting: name data of its own shape (or, if that is "
            "meant, repeat the channel in its forward)"
        )
    _check_outputs(name, logits, len(images), data)
    if not torch.equal(given, images):
        log.warning("%s changes its input in place: it is given a copy each time", name)
        victim.model.register_forward_pre_hook(_with_a_copy)
    apart = (logits - again).norm(dim=1) / logits.norm(dim=1).clamp(min=1e-30)
    if bool((apart > _ROUNDING).any()):
        log.warning(
            "%s gives other logits for the same images the second time: it is random. An attack "
            "sees one draw and the verification another, so its figures under attack mean little",
            name,
        )


def _check_outputs(name: str, logits: Tensor, count: int, data: ImageData) -> None:
    """Require finite logits (N, K) of all classes, that are no probabilities."""
    try:
        check_logits(logits, count)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    require(
        logits.shape[1] >= data.classes,
        f"{name} gives outputs {tuple(logits.shape)}, not ({count}, {data.classes} classes or "
        f"more), which {type(data).__name__} has",
    )
    require(bool(logits.isfinite().all()), f"{name} gives outputs that are not finite numbers")
    sums_to_one = bool((logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 1e-4)
    require(not sums_to_one, f"{name} gives probabilities: return the logits before the softmax")


def introduce(victim: Victim, data: ImageData, test: Images, predictions: Tensor) -> None:
    """Say what is attacked on what, and warn where the classifier is near guessing.

    Args:
        victim: the classifier.
        data: its data set.
        test: the images that are attacked.
        predictions: of these (N,).
    """
    labels = test.labels
    accuracy = float((predictions == labels).double().mean())
    log.info(
        "%s on the first %d of %d test images of %s, %s, %d classes: clean accuracy %s",
        victim.title, len(labels), len(data.test.labels), type(data).__name__,
        "x".join(map(str, data.image_shape)), data.classes, percent(accuracy),
    )  # fmt: skip
    chance = float(labels.bincount().max()) / len(labels)
    if accuracy <= chance + _NEAR_CHANCE * (1 - chance):
        log.warning(
            "%s is near guessing (always the most frequent class: %s). Is %s what it was trained "
            "on, with this range, order of channels and order of classes?",
            victim.title, percent(chance), type(data).__name__,
        )  # fmt: skip


def _with_a_copy(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    del module
    return inputs[0].clone(), *inputs[1:]


class _Broadcasts(TorchDispatchMode):
    """Sees whether a model makes more channels of its images by broadcasting alone.

    As `(x - mean) / std` does with the means of three channels and an image of one. What repeats a
    channel on purpose (`expand`, `repeat`, `cat`) is no broadcast.

    Args:
        images: (N, C, H, W), what the model is called with.

    Attributes:
        widened: to how many channels; 0 if it does not.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.images = [images]  # and what became of them pixel by pixel
        self.widened = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        call: Callable[..., Any] = func
        output = call(*args, **(kwargs or {}))
        # Identity, for equality of tensors is another thing.
        own = [x for x in args if any(x is image for image in self.images)]
        same = torch.Tag.pointwise in func.tags or func in _COPIES
        if own and same and isinstance(output, Tensor) and output.ndim == 4:
            whole = [x for x in args if isinstance(x, Tensor) and x.shape == output.shape]
            if output.shape[1] > own[0].shape[1] and not whole:
                self.widened = output.shape[1]
            elif output.shape == own[0].shape:
                self.images.append(output)
        return output


_COPIES = (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)
