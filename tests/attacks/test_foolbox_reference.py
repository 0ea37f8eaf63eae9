"""Agreement with the real Foolbox 1.8.0 and 2.4.0, whose results are in foolbox_reference/.

See foolbox_reference/make_reference.py. A norm there is NaN where Foolbox failed.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from funn.attacks import BIM, FGSM, DeepFool, Gradient, LocalSearch, SinglePixel
from funn.evaluation.records.verification import margins

PATH = Path(__file__).parent / "foolbox_reference" / "reference.npz"


@pytest.fixture(scope="module")
def reference():
    with np.load(PATH) as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


@pytest.fixture(scope="module")
def network(reference):
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    for parameter, name in zip(network.parameters(), ("w1", "b1", "w2", "b2"), strict=True):
        parameter.data = reference[name]
    return network


def norms(attack, reference, count=None):
    """L2 norms of an attack's results, NaN for a failure."""
    attack.batch_size = 512
    images, labels = reference["images"][:count].float() / 255, reference["labels"][:count]
    result = attack.run(images, labels)
    distances = (result.adversarials - images).double().flatten(1).norm(dim=1)
    return distances.where(result.success, torch.nan)


def agreement(ours, theirs, tolerance):
    """The share of images on which both fail, or both succeed with nearly the same norm."""
    close = torch.isclose(ours, theirs, rtol=tolerance, atol=0, equal_nan=True)
    return close.double().mean().item()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool(reference, network, norm):
    """Rounding decides where the way leads along the boundary; elsewhere all images agree.

    One by one, as Foolbox does it. Every iterate is Foolbox's until a margin falls below 1e-4. Over
    all images we agree with it as far as it agrees with itself on the same network with its hidden
    units in another order.
    """
    attack = DeepFool(network, norm, steps=50, protocol="foolbox1")
    images, labels = reference["images"].float() / 255, reference["labels"]
    iterates, logits = [], []

    def look(_, inputs, outputs):
        if not outputs.requires_grad:  # the pass that judges, once an iterate
            iterates.append(inputs[0][0])
            logits.append(outputs[0])

    hook = network.register_forward_hook(look)
    ours, closest = torch.zeros(2, len(images), dtype=torch.float64)
    compared = 0
    for i in range(len(images)):
        iterates.clear(), logits.clear()
        result = attack.run(images[i : i + 1], labels[i : i + 1])
        ours[i] = (result.adversarials - images[i]).double().norm()
        ours[i] = ours[i].where(result.success, torch.nan)
        margin = margins(torch.stack(logits), labels[i].expand(len(logits)))
        closest[i] = margin[margin >= 0].min()
        alike = int((margin.abs() > 1e-4).cumprod(0).sum())
        way = (torch.stack(iterates[:alike]) - images[i]).flatten(1) @ reference["probes"].T
        theirs = reference[f"deepfool_{norm}_iterates"][i, :alike]
        away = (way - theirs[: len(way)]).norm(dim=1)
        # Float32 pixels round by 6e-8: along four random directions of length 28 that is 2e-6.
        assert (away <= 1e-4 * theirs.norm(dim=1) + 2e-6).all()
        compared += alike - 1  # the first is the clean image
    hook.remove()
    assert compared > 300
    theirs, clear = reference[f"deepfool_{norm}"], closest > 1e-4
    assert clear.sum() >= 90
    assert agreement(ours[clear], theirs[clear], 0.01) == 1
    itself = agreement(reference[f"deepfool_{norm}_reordered"], theirs, 0.01)
    assert itself < 1
    assert agreement(ours, theirs, 0.01) >= itself - 0.04
    assert torch.isclose(ours.nanmedian(), theirs.nanmedian(), rtol=0.05)


def test_single_pixel(reference, network):
    ours = norms(SinglePixel(network), reference).isfinite()
    assert 0 < ours.sum() < len(ours)
    assert torch.equal(ours, reference["single_pixel"])


@pytest.mark.parametrize("index", [0, 1])
def test_fgsm(reference, network, index):
    attack = FGSM(network, reference["sign_eps"][index].item(), "foolbox1")
    # Another epsilon of the grid would change the norm by 0.1 % at least.
    assert agreement(norms(attack, reference), reference["sign"][index], 2e-4) >= 0.99


def test_gradient(reference, network):
    attack = Gradient(network, reference["gradient_eps"].item(), "foolbox1")
    assert agreement(norms(attack, reference), reference["gradient"], 2e-4) >= 0.99


def test_bim(reference, network):
    attack = BIM(network, reference["iterative_eps"].item(), protocol="foolbox1")
    theirs = reference["iterative"]
    assert agreement(norms(attack, reference, len(theirs)), theirs, 2e-4) >= 0.99


@pytest.mark.parametrize("order", ["fixed", "foolbox1"])
def test_local_search(reference, network, order):
    """Random: over the seeds, successes and noise on average are within the seeds' spread."""
    theirs = reference[f"local_search_{order}"]
    rounds = int(reference[f"local_search_{order}_rounds"])
    ours = torch.stack(
        [
            norms(LocalSearch(network, R=rounds, order=order, seed=seed), reference, 100)
            for seed in range(len(theirs))
        ]
    )
    for figure in (lambda run: run.isfinite().double().mean(1), lambda run: run.nanmean(1)):
        low, high = figure(theirs).aminmax()
        # Widened by its own width, for five seeds do not reach the ends.
        assert 2 * low - high <= figure(ours).mean() <= 2 * high - low
    # Image by image: how often of all seeds it succeeds.
    rates = [run.isfinite().double().mean(0) for run in (ours, theirs)]
    assert (rates[0] - rates[1]).abs().mean() < 0.1
