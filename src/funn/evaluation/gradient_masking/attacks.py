"""Is a defence robust, or does it hide its gradients? Checks that attack it (G4 to G17).

G16, that attacks keep to their balls, is a promise that the tests hold every attack to.

Each compares two attacks of which the second should find no more than the first, unless gradients
mislead the first. Figures are differences of success rates on the same images, in shares.
"""

from collections.abc import Callable
from functools import cached_property, partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from funn.attacks import DDN, FGSM, FMN, PGD, BatchedAttack, DeepFool, FeaturePGD, Square
from funn.attacks.fixed_budget.feature_pgd import has_encoder
from funn.data.images import Images
from funn.evaluation.gradient_masking.checks import Check
from funn.evaluation.gradient_masking.pgd_variants import EstimatedPGD, MarginPGD, ScaledPGD
from funn.evaluation.records.verification import float64_verifier, verify
from funn.runtime.seeding import generator

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
        self.judge = float64_verifier(model)

    @cached_property
    def pgd(self) -> Tensor:
        """Which images plain PGD fools, bool (N,): what the others are compared with."""
        return self.fooled(PGD(self.model, "linf", LINF))

    @property
    def pgd_rate(self) -> float:
        """The share of the images that plain PGD fools."""
        return float(self.pgd.float().mean())

    def fooled(self, attack: BatchedAttack) -> Tensor:
        """Which images an attack fools, bool (N,)."""
        attack.batch_size = self.batch_size
        return self.verified(attack.run(self.x, self.labels).adversarials)

    def rate(self, attack: BatchedAttack) -> float:
        """The share of the images that an attack fools."""
        return float(self.fooled(attack).float().mean())

    def verified(self, images: Tensor) -> Tensor:
        """Which returned images (N, C, H, W) are verified successes, bool (N,)."""
        return verify(self.judge, images, self.labels).success

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


def attacking_checks(
    model: nn.Module, test: Images, batch_size: int, other: nn.Module | None
) -> dict[str, Callable[[], list[Check]]]:
    """Attacks on a classifier in pairs, each group to be run on its own, by its name.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, classes), in eval mode.
        test: images that it gets right.
        batch_size: most images in one pass.
        other: a plain classifier, whose adversarial images are tried too.
    """
    on = Attacked(model, test, batch_size)
    return {
        "steps": partial(_steps, on),
        "losses": partial(_losses, on),
        "square": partial(_square, on),
        "other-ways": partial(_other_ways, on, other),
        "starts": partial(_starts, on),
        "distances": partial(_distances, on),
    }


def _square(on: Attacked) -> list[Check]:
    """No search without gradients may find more."""
    return [
        Check(
            "G7 Square (1000 queries) beyond PGD, Linf 0.1",
            on.rate(Square(on.model, "linf", LINF, 1000)) - on.pgd_rate,
            _HALF_POINT,
            "an attack without gradients finds more: gradients mislead",
            "How much more often does a search without gradients (Square) succeed than PGD?",
        )
    ]


def _starts(on: Attacked) -> list[Check]:
    """Neither more starts nor random points may find more."""
    return [
        Check(
            "G11 ten starts beyond one, Linf 0.1",
            on.rate(PGD(on.model, "linf", LINF, restarts=10)) - on.pgd_rate,
            _POINT,
            "the loss has many local optima: use restarts",
            "How much more often do ten random starts of PGD succeed than one?",
        ),
        Check(
            "G12 images that PGD left and a random point of the ball fools",
            on.found_at_random(on.pgd),
            0.001,
            "what random noise finds the gradient did not",
            "What share of images does PGD leave that a random point of the ball fools?",
        ),
    ]


def _steps(on: Attacked) -> list[Check]:
    """More steps and larger balls must find more."""
    model = on.model
    rates = [on.rate(PGD(model, "l2", eps)) for eps in (0.5, 1.0, 2.0, 4.0)]
    return [
        Check(
            "G4 one step (FGSM) beyond forty (PGD), Linf 0.1",
            on.rate(FGSM(model, LINF)) - on.pgd_rate,
            _HALF_POINT,
            "the gradient misleads from the first step on",
            "How much more often does one step (FGSM) succeed than forty (PGD)?",
        ),
        Check(
            "G5 drop of success from a smaller to a larger ball",
            max(small - large for small, large in pairwise(rates)),
            _HALF_POINT,
            "a larger ball holds all of the smaller: the attack fails",
            "By what share does the success of PGD fall as its ball grows?",
        ),
        Check(
            "G6 images that withstand a ball as large as the box",
            1 - on.rate(PGD(model, "linf", 1.0)),
            0.001,
            "some image of another class is always in the box: the attack fails",
            "What share of images withstands PGD in a ball that holds every image?",
        ),
        Check(
            "G10 four hundred steps beyond forty, Linf 0.1",
            on.rate(PGD(model, "linf", LINF, 400)) - on.pgd_rate,
            _POINT,
            "forty steps have not converged",
            "How much more often do four hundred steps of PGD succeed than forty?",
        ),
        Check(
            "G10 DeepFool's thousand steps beyond fifty",
            on.rate(DeepFool(model, steps=1000)) - on.rate(DeepFool(model, steps=50)),
            _HALF_POINT,
            "DeepFool stalls",
            "How much more often do a thousand steps of DeepFool succeed than fifty?",
        ),
    ]


def _losses(on: Attacked) -> list[Check]:
    """Another loss must not find more."""
    return [
        Check(
            "G9 PGD on the margin beyond PGD on the cross-entropy, Linf 0.1",
            on.rate(MarginPGD(on.model, "linf", LINF)) - on.pgd_rate,
            0.02,
            "the softmax saturates: attack the margin",
            "How much more often does PGD succeed on the margin than on the cross-entropy?",
        ),
        Check(
            "G9 PGD on scaled logits beyond PGD, Linf 0.1",
            on.rate(ScaledPGD(on.model, "linf", LINF)) - on.pgd_rate,
            0.02,
            "the scale of the logits hides the gradient",
            "How much more often does PGD succeed on scaled logits than on them as they are?",
        ),
    ]


def _other_ways(on: Attacked, other: nn.Module | None) -> list[Check]:
    """Neither a guessed gradient, nor another classifier, nor the features must show more."""
    found = [
        Check(
            "G14 PGD by an estimated gradient beyond PGD, Linf 0.1",
            on.rate(EstimatedPGD(on.model, "linf", LINF)) - on.pgd_rate,
            _HALF_POINT,
            "what differences of the same loss find the gradient did not: it misleads",
            "How much more often does PGD by estimated gradients succeed than by true ones?",
        )
    ]
    if other is not None:
        shown = PGD(other, "linf", LINF, stops=False)
        found.append(
            Check(
                "G8 images made on another classifier beyond PGD, Linf 0.1",
                on.rate(shown) - on.pgd_rate,
                _HALF_POINT,
                "another classifier shows the way better than its own gradients",
                "How much more often do images that fool another classifier succeed than PGD?",
            )
        )
    if has_encoder(on.model):
        found.append(
            Check(
                "G15 PGD on the features beyond PGD, Linf 0.1",
                on.rate(FeaturePGD(on.model, "linf", LINF)) - on.pgd_rate,
                _HALF_POINT,
                "the head hides what the features show",
                "How much more often does PGD on the features succeed than PGD?",
            )
        )
    return found


def _distances(on: Attacked) -> list[Check]:
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
        wrong = on.verified(result.adversarials)
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
            "On what share of images is DeepFool's distance twice the least that is known?",
        ),
        Check(
            "G17 images that DeepFool fools in float32 only",
            unconfirmed,
            0.05,
            "its successes are rounding",
            "What share of images does DeepFool fool in float32 only, not in float64?",
        ),
    ]
