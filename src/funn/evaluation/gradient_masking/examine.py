"""Examine a classifier for hidden gradients, and two controls that hide them on purpose."""

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from funn.data.images import Images
from funn.evaluation.gradient_masking.attacks import attacking_checks
from funn.evaluation.gradient_masking.checks import Check, checks, verdict
from funn.evaluation.studies import Once
from funn.evaluation.trials.run_attack import predict

log = logging.getLogger(__name__)


class Saturated(nn.Module):
    """A control that the checks must flag: a classifier whose softmax rounds to 0 and 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes), ten thousand times as large."""
        logits: Tensor = 1e4 * self.model(x)
        return logits


class Quantised(nn.Module):
    """A control that the checks must flag: a classifier of images rounded to nine grey values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes), which have no gradient in x."""
        logits: Tensor = self.model((8 * x).round() / 8)
        return logits


def examine(
    name: str,
    model: nn.Module,
    test: Images,
    batch_size: int,
    other: nn.Module | None,
    once: Once,
) -> list[Check]:
    """Run all checks on the images that a classifier gets right.

    Args:
        name: of the classifier, for the notes.
        model: images (N, C, H, W) in [0, 1] to logits (N, classes), in eval mode.
        test: images to choose from.
        batch_size: most images in one pass.
        other: a plain classifier, whose adversarial images are tried too.
        once: see `funn.evaluation.studies.Once`.
    """
    right = predict(model, test.floats(), batch_size) == test.labels
    images = Images(test.images[right], test.labels[right])
    groups = {
        "looks": lambda: checks(model, images, batch_size),
        **attacking_checks(model, images, batch_size, other),
    }
    found: list[Check] = []
    for group, find in tqdm(groups.items(), desc=name, disable=not sys.stderr.isatty()):
        noted = once(f"{name}-{group}", partial(_plain, find))
        found += [Check(**check) for check in noted]
    return found


def _plain(find: Callable[[], list[Check]]) -> list[dict[str, Any]]:
    return [check._asdict() for check in find()]


def masking(
    model: nn.Module,
    test: Images,
    batch_size: int,
    controls: bool,
    other: nn.Module | None,
    once: Once,
) -> dict[str, Any]:
    """Examine a classifier and, as controls, the same with its gradients hidden in two ways.

    Args:
        model: see `examine`, as the rest.
        test: see `examine`.
        batch_size: see `examine`.
        controls: whether to examine the controls, which shows that the checks see what they look
            for.
        other: see `examine`.
        once: see `examine`.

    Returns:
        `checks` of the classifier and of each control, and whether each is `flagged`.
    """
    models = {"classifier": model}
    if controls:
        models |= {"saturated": Saturated(model).eval(), "quantised": Quantised(model).eval()}
    content: dict[str, Any] = {}
    for name, each in models.items():
        found = examine(name, each, test, batch_size, other, once)
        content[name] = {
            "flagged": not all(check.passed for check in found),
            "checks": [check._asdict() | {"passed": check.passed} for check in found],
        }
        log.info("%s: %s", name, verdict(found))
        if name != "classifier" and not content[name]["flagged"]:
            log.warning("the control %s was not flagged: trust no verdict of these checks", name)
    return content
