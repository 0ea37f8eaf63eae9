"""DeepFool on linear classifiers, on ties, and next to Foolbox 3."""

from pathlib import Path

import foolbox
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from funn.attacks import DeepFool

SHAPE = (1, 4, 4)
PROTOCOLS = ("strict", "foolbox1")
OVERSHOOT = {"strict": 0.02, "foolbox1": 0.05}
PUSH = {"strict": 1e-4, "foolbox1": 0.0}  # added to the length of the step
DUAL = {"l2": 2, "linf": 1}
ORDER = {"l2": 2, "linf": np.inf}


def linear(weights, image, margins):
    """A linear classifier of class 0, by these margins over the others at an image (C, H, W)."""
    layer = nn.Linear(weights.shape[1], len(weights))
    logits = torch.cat((torch.zeros(1), -torch.as_tensor(margins))).double()
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.copy_(logits - layer.weight.double() @ image.flatten().double())
    return nn.Sequential(nn.Flatten(), layer)


def boundaries(model, image, norm):
    """|f| and the dual norm of w for each other class, in float64 (K - 1,)."""
    layer = model[1]
    logits = layer.weight.double() @ image.flatten().double() + layer.bias.double()
    directions = layer.weight.double()[1:] - layer.weight.double()[0]
    return (logits[0] - logits[1:]).detach(), directions.norm(p=DUAL[norm], dim=1).detach()


def attacked_distance(attack, image, norm):
    result = attack.run(image[None], torch.tensor([0]))
    assert result.success.all()
    assert result.step.tolist() == [1]
    return np.linalg.norm((result.adversarials[0] - image).double().flatten(), ORDER[norm])


@st.composite
def problems(draw):
    """A linear classifier, and an image near the middle of the box and not far from boundaries."""
    classes = draw(st.integers(2, 6))
    entries = st.floats(-1, 1, width=32)
    weights = torch.from_numpy(draw(arrays.arrays(np.float32, (classes, 16), elements=entries)))
    assume(((weights[1:] - weights[0]).norm(dim=1) > 0.5).all())
    entries = st.floats(0.4375, 0.5625, width=32)
    image = torch.from_numpy(draw(arrays.arrays(np.float32, SHAPE, elements=entries)))
    rivals = st.lists(st.floats(0.01, 0.15), min_size=classes - 1, max_size=classes - 1)
    return linear(weights, image, draw(rivals)), image


@settings(max_examples=60, deadline=None)
@given(
    problem=problems(), norm=st.sampled_from(["l2", "linf"]), protocol=st.sampled_from(PROTOCOLS)
)
def test_lands_just_beyond_the_nearest_plane(problem, norm, protocol):
    model, image = problem
    f, w = boundaries(model, image, norm)
    expected = ((f / w).min() + PUSH[protocol]) * (1 + OVERSHOOT[protocol])
    distance = attacked_distance(DeepFool(model, norm, protocol=protocol), image, norm)
    assert distance == pytest.approx(expected.item(), rel=1e-3)


@pytest.fixture
def image():
    return torch.full(SHAPE, 0.5)


@pytest.fixture
def weights():
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_overshoot(weights, image, norm, protocol):
    model = linear(weights, image, [0.1, 0.1])
    f, w = boundaries(model, image, norm)
    attack = DeepFool(model, norm, overshoot=0.5, protocol=protocol)
    expected = ((f / w).min() + PUSH[protocol]) * 1.5
    assert attacked_distance(attack, image, norm) == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_push_may_go_to_the_score(weights, image, norm):
    model = linear(weights, image, [0.01, 0.01])
    f, w = boundaries(model, image, norm)
    expected = ((f + 1e-4) / w).min() * 1.02
    attack = DeepFool(model, norm, push="score")
    assert attacked_distance(attack, image, norm) == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_candidates_are_those_with_the_highest_logits(weights, image, protocol):
    """Of two classes the one with the lower logit is nearer, as its plane is steeper."""
    weights[2] *= 10
    model = linear(weights, image, [0.1, 0.2])
    f, w = boundaries(model, image, "l2")
    assert f[1] / w[1] < f[0] / w[0] / 2
    for candidates, target in ((2, 0), (3, 1), (10, 1)):
        attack = DeepFool(model, candidates=candidates, protocol=protocol)
        expected = (f[target] / w[target] + PUSH[protocol]) * (1 + OVERSHOOT[protocol])
        assert attacked_distance(attack, image, "l2") == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_tied_class_does_not_stop_it(weights, image, norm, protocol):
    """Class 1 is always tied with class 0, so that its f is 0; class 2 can be reached."""
    weights[1] = weights[0]
    model = linear(weights, image, [0.0, 0.1])
    with torch.no_grad():
        model[1].bias[1] = model[1].bias[0]
    f, w = boundaries(model, image, norm)
    expected = (f[1] / w[1] + PUSH[protocol]) * (1 + OVERSHOOT[protocol])
    attack = DeepFool(model, norm, protocol=protocol)
    assert attacked_distance(attack, image, norm) == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stops_where_nothing_can_change(weights, image, norm, protocol):
    """All classes tied; no gradient at all; the only way leads out of the box."""
    tied = linear(weights[:1].expand(2, -1), image, [0.0])
    with torch.no_grad():
        tied[1].bias[1] = tied[1].bias[0]
    flat = linear(torch.zeros(2, 16), image, [0.1])
    outward = linear(torch.stack((torch.zeros(16), torch.ones(16))), torch.ones(SHAPE), [0.1])
    for model, x in ((tied, image), (flat, image), (outward, torch.ones(SHAPE))):
        result = DeepFool(model, norm, steps=1000, protocol=protocol).run(
            x[None], torch.tensor([0])
        )
        assert not result.success.any()
        assert torch.equal(result.adversarials[0], x)
        assert result.forwards.item() == 2


@pytest.fixture(scope="module")
def small():
    """The network and the images of the Foolbox reference."""
    path = Path(__file__).parent / "foolbox_reference" / "reference.npz"
    with np.load(path) as stored:
        stored = {key: torch.from_numpy(value) for key, value in stored.items()}
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    for parameter, name in zip(network.parameters(), ("w1", "b1", "w2", "b2"), strict=True):
        parameter.data = stored[name]
    return network.eval(), stored["images"].float() / 255, stored["labels"]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("push", ["distance", "score"])
def test_strict_agrees_with_foolbox_3(small, norm, push):
    """Exactly where it adds the 1e-4 to the same thing, which is the length of the step."""
    network, images, labels = small
    kind = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
    theirs = kind[norm](steps=50, candidates=10, overshoot=0.02, loss="logits")
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, adversarials, success = theirs(model, images, labels, epsilons=None)
    result = DeepFool(network, norm, push=push).run(images, labels)
    assert success.all()
    assert result.success.all()
    ours, expected = (
        (x - images).double().flatten(1).norm(p=ORDER[norm], dim=1)
        for x in (result.adversarials, adversarials)
    )
    if push == "distance":
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=0)
    else:
        assert ours.median() == pytest.approx(expected.median().item(), rel=0.02)
        assert torch.isclose(ours, expected, rtol=0.02, atol=3e-4).double().mean() >= 0.98


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_long_run_holds_the_shorter_ones(small, protocol):
    network, images, labels = small
    long = DeepFool(network, steps=50, protocol=protocol).run(images, labels)
    shares = set()
    for steps in (0, 1, 3, 9, 12):
        short = DeepFool(network, steps=steps, protocol=protocol).run(images, labels)
        within = (long.step >= 0) & (long.step <= steps)
        assert torch.equal(short.success, within)
        assert torch.equal(short.adversarials[within], long.adversarials[within])
        shares.add(int(within.sum()))
    assert len(shares) > 2


def test_backward_passes_are_those_of_the_steps(small):
    network, images, labels = small
    result = DeepFool(network).run(images, labels)
    assert torch.equal(result.backwards, 9 * result.step)
    assert torch.equal(result.forwards, 2 * result.step + 1)
