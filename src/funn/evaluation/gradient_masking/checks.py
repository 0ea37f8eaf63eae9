"""Is a defence robust, or does it hide its gradients? Checks of the classifier itself (G0 to G3).

After Athalye et al. 2018, Carlini et al. 2019, Tramer et al. 2020, Pintor et al. 2021 and the flags
of AutoAttack. `funn.evaluation.gradient_masking.attacks` has those that attack. Every check gives a
figure, the bound that it must keep, and what a figure beyond it means.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.attacks.core.interface import untouched
from funn.data.images import Images
from funn.evaluation.gradient_masking.zero_gradients import gradient_zeros
from funn.evaluation.records.verification import float64_verifier, margins
from funn.runtime.seeding import generator

# So short a step crosses few kinks of a network of ReLUs.
_DIRECTIONS, _STEP = 10, 1e-6


class Check(NamedTuple):
    """The outcome of one check.

    Attributes:
        name: what was looked at.
        figure: what was found.
        bound: the most that an honest classifier shows.
        meaning: of a figure beyond the bound.
        asks: the question that it puts to the classifier, in words.
    """

    name: str
    figure: float
    bound: float
    meaning: str
    asks: str

    @property
    def passed(self) -> bool:
        """Whether the figure keeps the bound; NaN does not."""
        return self.figure <= self.bound


def checks(model: nn.Module, test: Images, batch_size: int) -> list[Check]:
    """Look at a classifier without attacking it.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, classes), in eval mode.
        test: images that it gets right.
        batch_size: most images in one pass.
    """
    x, labels = test.floats(), test.labels
    zeros = gradient_zeros(model, test, batch_size)
    return [
        Check(
            "G0 the same logits twice, and one by one",
            difference(model, x, batch_size),
            1e-4,
            "random or batch-dependent: average attacks over the randomness",
            "How far apart are the logits of the same images, passed twice and one by one?",
        ),
        Check(
            "G1 share of outputs that are probabilities",
            probabilities(model(x)),
            0.5,
            "the softmax saturates what attacks climb: attack the logits",
            "What share of its outputs are probabilities instead of logits?",
        ),
        Check(
            "G2 images without a gradient of the cross-entropy",
            zeros["cross_entropy"]["all_zero"],
            0.001,
            "saturated: attacks on the cross-entropy are blind",
            "On what share of images is the gradient of the cross-entropy exactly zero?",
        ),
        Check(
            "G2 images without a gradient of the margin",
            zeros["margin"]["all_zero"],
            0.0,
            "the network itself cuts the gradient",
            "On what share of images is the gradient of the margin exactly zero?",
        ),
        Check(
            "G3 relative error of the gradient, against differences",
            gradient_error(model, x, labels),
            1e-3,
            "the gradient does not belong to the function",
            "How far is the gradient from what small steps really change, relatively?",
        ),
    ]


@torch.no_grad()
def difference(model: nn.Module, x: Tensor, batch_size: int) -> float:
    """The largest relative L2 difference of logits, of two passes and of other batches."""
    whole = torch.cat([model(batch) for batch in x.split(batch_size)])
    again = torch.cat([model(batch) for batch in x.split(batch_size)])
    single = torch.cat([model(image[None]) for image in x])
    scale = whole.norm(dim=1).clamp(min=1e-12)
    worst = torch.maximum((whole - again).norm(dim=1), (whole - single).norm(dim=1))
    return float((worst / scale).amax())


@torch.no_grad()
def probabilities(outputs: Tensor) -> float:
    """The share of outputs (N, classes) that lie in [0, 1] and sum to 1."""
    inside = ((outputs >= 0) & (outputs <= 1)).all(1)
    return float((inside & ((outputs.sum(1) - 1).abs() < 1e-5)).float().mean())


def gradient_error(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """The median relative error of the margin's gradient against central differences, in float64.

    Along random directions, of each image; the directions' differences are those of the function.
    """
    judge = float64_verifier(model)
    start = x.double().requires_grad_()
    with untouched(judge):
        total = margins(judge(start), labels).sum()
        if not total.requires_grad:
            return torch.inf
        (gradient,) = torch.autograd.grad(total, start, materialize_grads=True)
    errors = []
    draw = generator("directions")
    for _ in range(_DIRECTIONS):
        direction = F.normalize(torch.randn(x.shape, generator=draw).flatten(1).double(), dim=1)
        step = _STEP * direction.view_as(x)
        with torch.no_grad():
            ends = [margins(judge(x.double() + sign * step), labels) for sign in (1, -1)]
        differences = (ends[0] - ends[1]) / (2 * _STEP)
        slopes = (gradient.flatten(1) * direction).sum(1)
        errors.append((slopes - differences).abs() / differences.abs().clamp(min=1e-12))
    return float(torch.cat(errors).median())


def in_words(check: Check) -> str:
    """One line: passed or flagged, what the check asks, its figure and its bound."""
    number = check.name.split()[0]
    said = f"{number:<3} {check.asks} {check.figure:.4g} (at most {check.bound:g})"
    return f"passed   {said}" if check.passed else f"FLAGGED  {said}: {check.meaning}"


def verdict(found: Sequence[Check]) -> str:
    """One line: the checks that were not passed."""
    failed = [check.name for check in found if not check.passed]
    return f"flagged by {len(failed)} of {len(found)}: {'; '.join(failed)}" if failed else "passed"
