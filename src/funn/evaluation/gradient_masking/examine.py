"""Examine a classifier for hidden gradients, and the masked controls of it."""

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from tqdm import tqdm

from funn.data.images import Images
from funn.evaluation.gradient_masking.attacks import attacking_checks
from funn.evaluation.gradient_masking.checks import Check, checks, in_words, verdict
from funn.evaluation.gradient_masking.controls import CONTROLS
from funn.evaluation.studies import Once
from funn.evaluation.trials.run_attack import predict

log = logging.getLogger(__name__)


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
        models |= {name: kind(model).eval() for name, (kind, _) in CONTROLS.items()}
    content: dict[str, Any] = {}
    for name, each in models.items():
        found = examine(name, each, test, batch_size, other, once)
        content[name] = {
            "flagged": not all(check.passed for check in found),
            "checks": [check._asdict() | {"passed": check.passed} for check in found],
        }
    return content


def tell(content: dict[str, Any]) -> None:
    """Say on the terminal what each check asks and what it found, from what `masking` returned."""
    for name in ("classifier", *CONTROLS):
        if name not in content:
            continue
        if name in CONTROLS:
            log.info("control %s, %s: it is meant to be flagged", name, CONTROLS[name][1])
        else:
            log.info("the classifier: what each check asks, what it found, the most that it may be")
        kept = [{key: check[key] for key in Check._fields} for check in content[name]["checks"]]
        found = [Check(**check) for check in kept]
        for check in found:
            log.info("  %s", in_words(check))
        log.info("%s: %s", name, verdict(found))
        if name in CONTROLS and not content[name]["flagged"]:
            log.warning("the control %s was not flagged: trust no verdict of these checks", name)
