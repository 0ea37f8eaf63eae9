"""Is a defence robust, or does it hide its gradients? Checks that attack it (G4 to G17).

G16, that attacks keep to their balls, is a promise that the tests hold every attack to.

Each compares two attacks of which the second should find no more than the first, unless gradients
mislead the first. Figures are differences of success rates on the same images, in shares.
"""

import logging
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from funn.attacking import predict
from funn.attacks import DDN, FGSM, FMN, PGD, BatchedAttack, DeepFool, FeaturePGD, Square
from funn.attacks.feature_pgd import has_encoder
from funn.data import Images
from funn.masking import Check, checks, verdict
from funn.masking_pgd import EstimatedPGD, MarginPGD, ScaledPGD
from funn.records import margins, referee
from funn.seeding import generator

log = logging.getLogger(__name__)

LINF = 0.1
_HALF_POINT, _POINT = 0.005, 0.01
_RANDOM = 1000


class Attacked:
    """Which of the images an attack fools, verified in float64.

    Args:
        model: the classifier.
        test: images that it gets right.
        batch_size: most images in one pass.
    """

    def __init__(self, model: nn.Module, test: Images, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self.x, self.labels = test.floats(), test.labels
        self.judge = referee(model)

    def fooled(self, attack: BatchedAttack) -> Tensor:
        """Whether each returned image is misclassified, bool (N,)."""
        attack.batch_size = self.batch_size
        return self.wrong(attack.run(self.x, self.labels).adversarials)

    def rate(self, attack: BatchedAttack) -> float:
        """The share of the images that an attack fools."""
        return float(self.fooled(attack).float().mean())

    @torch.no_grad()
    def wrong(self, images: Tensor) -> Tensor:
        """Whether images are misclassified in float64, bool (N,)."""
        return margins(self.judge(images.double()), self.labels) < 0

    @torch.no_grad()
    def found_at_random(self, fooled: Tensor) -> float:
        """The share of all images not fooled that one of 1000 points of the ball fools."""
        left = (~fooled).nonzero()[:, 0]
        hit = torch.zeros(len(left), dtype=torch.bool)
        draw = generator("points")
        for _ in range(_RANDOM):
            noise = LINF * (2 * torch.rand(self.x[left].shape, generator=draw) - 1)
            logits = self.model((self.x[left] + noise).clamp(0, 1))
            hit |= logits.argmax(1) != self.labels[left]
        return float(hit.sum()) / max(len(fooled), 1)


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
    model: nn.Module, test: Images, batch_size: int, other: nn.Module | None = None
) -> list[Check]:
    """Run all checks on the images that a classifier gets right.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, classes), in eval mode.
        test: images to choose from.
        batch_size: most images in one pass.
        other: a plain classifier, whose adversarial images are tried too.
    """
    right = predict(model, test.floats(), batch_size) == test.labels
    images = Images(test.images[right], test.labels[right])
    return [
        *checks(model, images, batch_size),
        *attacking_checks(model, images, batch_size, other),
    ]


def masking(
    model: nn.Module,
    test: Images,
    batch_size: int,
    controls: bool,
    other: nn.Module | None = None,
) -> dict[str, Any]:
    """Examine a classifier and, as controls, the same with its gradients hidden in two ways.

    Args:
        model: see `examine`, as the rest.
        test: see `examine`.
        batch_size: see `examine`.
        controls: whether to examine the controls, which shows that the checks see what they look
            for.
        other: see `examine`.

    Returns:
        `checks` of the classifier and of each control, and whether each is `flagged`.
    """
    models = {"classifier": model}
    if controls:
        models |= {"saturated": Saturated(model).eval(), "quantised": Quantised(model).eval()}
    content: dict[str, Any] = {}
    for name, each in tqdm(models.items(), desc="masking", disable=not sys.stderr.isatty()):
        found = examine(each, test, batch_size, other)
        content[name] = {
            "flagged": not all(check.passed for check in found),
            "checks": [check._asdict() | {"passed": check.passed} for check in found],
        }
        log.info("%s: %s", name, verdict(found))
        if name != "classifier" and not content[name]["flagged"]:
            log.warning("the control %s was not flagged: trust no verdict of these checks", name)
    return content


def attacking_checks(
    model: nn.Module, test: Images, batch_size: int, other: nn.Module | None
) -> list[Check]:
    """Attack a classifier in pairs.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, classes), in eval mode.
        test: images that it gets right.
        batch_size: most images in one pass.
        other: see `examine`.
    """
    on = Attacked(model, test, batch_size)
    pgd = on.fooled(PGD(model, "linf", LINF))
    rate = float(pgd.float().mean())
    return [
        *_steps(on, rate),
        *_losses(on, rate),
        Check(
            "G7 Square (1000 queries) beyond PGD, Linf 0.1",
            on.rate(Square(model, "linf", LINF, 1000)) - rate,
            _HALF_POINT,
            "an attack without gradients finds more: gradients mislead",
        ),
        *_other_ways(on, rate, other),
        Check(
            "G11 ten starts beyond one, Linf 0.1",
            on.rate(PGD(model, "linf", LINF, restarts=10)) - rate,
            _POINT,
            "the loss has many local optima: use restarts",
        ),
        Check(
            "G12 images that PGD left and a random point of the ball fools",
            on.found_at_random(pgd),
            0.001,
            "what random noise finds the gradient did not",
        ),
        *_distances(on),
    ]


def _steps(on: Attacked, rate: float) -> Sequence[Check]:
    """More steps and larger balls must find more."""
    model = on.model
    rates = [on.rate(PGD(model, "l2", eps)) for eps in (0.5, 1.0, 2.0, 4.0)]
    drop = max(small - large for small, large in pairwise(rates))
    return [
        Check(
            "G4 one step (FGSM) beyond forty (PGD), Linf 0.1",
            on.rate(FGSM(model, LINF)) - rate,
            _HALF_POINT,
            "the gradient misleads from the first step on",
        ),
        Check(
            "G5 drop of success from a smaller to a larger ball",
            drop,
            _HALF_POINT,
            "a larger ball holds all of the smaller: the attack fails",
        ),
        Check(
            "G6 images that withstand a ball as large as the box",
            1 - on.rate(PGD(model, "linf", 1.0)),
            0.001,
            "some image of another class is always in the box: the attack fails",
        ),
        Check(
            "G10 four hundred steps beyond forty, Linf 0.1",
            on.rate(PGD(model, "linf", LINF, 400)) - rate,
            _POINT,
            "forty steps have not converged",
        ),
        Check(
            "G10 DeepFool's thousand steps beyond fifty",
            on.rate(DeepFool(model, steps=1000)) - on.rate(DeepFool(model, steps=50)),
            _HALF_POINT,
            "DeepFool stalls",
        ),
    ]


def _losses(on: Attacked, rate: float) -> Sequence[Check]:
    """Another loss must not find more."""
    return [
        Check(
            "G9 PGD on the margin beyond PGD on the cross-entropy, Linf 0.1",
            on.rate(MarginPGD(on.model, "linf", LINF)) - rate,
            0.02,
            "the softmax saturates: attack the margin",
        ),
        Check(
            "G9 PGD on scaled logits beyond PGD, Linf 0.1",
            on.rate(ScaledPGD(on.model, "linf", LINF)) - rate,
            0.02,
            "the scale of the logits hides the gradient",
        ),
    ]


def _other_ways(on: Attacked, rate: float, other: nn.Module | None) -> Sequence[Check]:
    """Neither a guessed gradient, nor another classifier, nor the features must show more."""
    found = [
        Check(
            "G14 PGD by an estimated gradient beyond PGD, Linf 0.1",
            on.rate(EstimatedPGD(on.model, "linf", LINF)) - rate,
            _HALF_POINT,
            "what differences of the same loss find the gradient did not: it misleads",
        )
    ]
    if other is not None:
        shown = PGD(other, "linf", LINF, stops=False)
        found.append(
            Check(
                "G8 images made on another classifier beyond PGD, Linf 0.1",
                on.rate(shown) - rate,
                _HALF_POINT,
                "another classifier shows the way better than its own gradients",
            )
        )
    if has_encoder(on.model):
        found.append(
            Check(
                "G15 PGD on the features beyond PGD, Linf 0.1",
                on.rate(FeaturePGD(on.model, "linf", LINF)) - rate,
                _HALF_POINT,
                "the head hides what the features show",
            )
        )
    return found


def _distances(on: Attacked) -> Sequence[Check]:
    """DeepFool's distances must be near those of the attacks that look for the least."""
    model = on.model
    lengths = {}
    for name, attack in (
        ("deepfool", DeepFool(model)),
        ("ddn", DDN(model)),
        ("fmn", FMN(model, "l2")),
    ):
        attack.batch_size = on.batch_size
        result = attack.run(on.x, on.labels)
        wrong = on.wrong(result.adversarials)
        length = (result.adversarials - on.x).flatten(1).norm(dim=1)
        lengths[name] = length.where(wrong, torch.inf)
        if name == "deepfool":
            unconfirmed = float((result.success & ~wrong).float().mean())
    best = torch.stack(list(lengths.values())).amin(0)
    return [
        Check(
            "G13 images on which DeepFool needs twice the least distance",
            float((lengths["deepfool"] > 2 * best).float().mean()),
            0.25,
            "DeepFool's noise level says nothing here",
        ),
        Check(
            "G17 images that DeepFool fools in float32 only",
            unconfirmed,
            0.05,
            "its successes are rounding",
        ),
    ]
