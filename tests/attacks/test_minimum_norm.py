"""The attacks for the smallest adversarial image: closed forms, what they saw, and Foolbox 3."""

import foolbox
import numpy as np
import pytest
import torch
from torch import nn

from funn.attacks import DDN, FMN, SigmaZero
from funn.attacks.core.ball import project

SIDE = 8
P = {"l0": 0, "l1": 1, "l2": 2, "linf": np.inf}
MARGINS = (0.05, 0.1, 0.3)


class Recorder(nn.Module):
    """A network that keeps what passes through it."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.network(x)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 12), nn.Tanh(), nn.Linear(12, 5))
    with torch.no_grad():
        network[1].weight *= 2
    return network.eval()


@pytest.fixture(scope="module")
def images():
    """Black and white with some grey, so that the box clips."""
    draw = torch.Generator().manual_seed(4)
    return (2 * torch.rand(24, 1, SIDE, SIDE, generator=draw) - 0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def labels(network, images):
    return network(images).argmax(1)


def plane(weights):
    """Class 0 where weights (D,) times x is positive, x being as far from grey as is positive."""
    layer = nn.Linear(len(weights), 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([weights, torch.zeros_like(weights)]))
        layer.bias.copy_(torch.tensor([-0.5 * weights.sum(), 0]))
    return nn.Sequential(nn.Flatten(), layer)


def off_plane(weights, margins):
    """Images (N, 1, 4, 4) near grey that lie this far above the plane in the logit."""
    direction = weights / weights.square().sum()
    return (0.5 + torch.tensor(margins)[:, None] * direction).view(-1, 1, 4, 4)


def distances(attack, images, labels, p):
    result = attack.run(images, labels)
    assert result.success.all()
    return (result.adversarials - images).double().flatten(1).norm(p=p, dim=1)


@pytest.mark.parametrize(
    ("make", "p", "dual"),
    [
        (lambda model: DDN(model, 200), 2, 2),
        (lambda model: FMN(model, "l2"), 2, 2),
        (lambda model: FMN(model, "linf"), np.inf, 1),
        (lambda model: FMN(model, "l1"), 1, np.inf),
    ],
    ids=["ddn", "fmn_l2", "fmn_linf", "fmn_l1"],
)
def test_reaches_the_distance_of_a_plane(make, p, dual):
    draw = torch.Generator().manual_seed(5)
    weights = torch.rand(16, generator=draw) + 0.5
    weights[::2] *= -1
    images = off_plane(weights, MARGINS)
    found = distances(make(plane(weights)), images, torch.zeros(3, dtype=torch.int64), p)
    expected = torch.tensor(MARGINS) / weights.norm(p=dual)
    assert (found >= expected * (1 - 1e-4)).all()
    assert (found <= expected * 1.01).all()


def test_fmn_l2_goes_on_where_the_box_cuts_steps_off():
    """Of 16 pixels one may move: the boundary is always farther than the gradient tells."""
    weights = torch.ones(16)
    images = torch.zeros(1, 1, 4, 4)
    images[..., 0, 0] = 1.0
    model = plane(weights)
    with torch.no_grad():
        model[1].bias[0] = -0.5
    found = distances(FMN(model, "l2"), images, torch.tensor([0]), 2)
    assert found.item() == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize(
    "make", [lambda model: SigmaZero(model, 300), lambda model: FMN(model, "l0")]
)
def test_finds_the_fewest_pixels(make):
    """Three pixels matter, and each takes half of its weight away; two of three do not suffice."""
    weights = torch.full((16,), 0.05)
    weights[[2, 7, 11]] = torch.tensor([1.0, -1.2, 0.9])
    model, images = plane(weights), torch.full((1, 1, 4, 4), 0.5)
    with torch.no_grad():
        model[1].bias += torch.tensor([1.2, 0.0])
    result = make(model).run(images, torch.tensor([0]))
    assert result.success.all()
    changed = (result.adversarials != images).flatten().nonzero()[:, 0]
    assert changed.tolist() == [2, 7, 11]


@pytest.mark.parametrize("make", [lambda m: SigmaZero(m), lambda m: FMN(m, "l0")])
def test_stops_at_a_single_pixel(make):
    weights = torch.full((16,), 0.01)
    weights[3] = 1.0
    images = off_plane(weights, MARGINS)
    result = make(plane(weights)).run(images, torch.zeros(3, dtype=torch.int64))
    assert (result.adversarials != images).flatten(1).sum(1).tolist() == [1, 1, 1]
    assert (result.forwards < 100).all()
    assert torch.equal(result.backwards, result.forwards - 1)


@pytest.mark.parametrize(
    ("make", "p"),
    [
        (lambda model: DDN(model, 30), 2),
        (lambda model: FMN(model, "l2", 30), 2),
        (lambda model: FMN(model, "linf", 30), np.inf),
        (lambda model: FMN(model, "l1", 30), 1),
        (lambda model: FMN(model, "l0", 30), 0),
        (lambda model: SigmaZero(model, 60), 0),
    ],
    ids=["ddn", "fmn_l2", "fmn_linf", "fmn_l1", "fmn_l0", "sigma_zero"],
)
def test_the_smallest_that_was_seen_is_returned(make, p, network, images, labels):
    recorder = Recorder(network)
    for image, label in zip(images[:4, None], labels[:4, None], strict=True):
        recorder.seen.clear()
        result = make(recorder).run(image, label)
        seen = torch.cat(recorder.seen)
        assert ((seen >= 0) & (seen <= 1)).all()
        assert len(seen) == result.forwards
        wrong = network(seen).argmax(1) != label
        assert wrong.any() == result.success
        norms = (seen - image).flatten(1).norm(p=p, dim=1)
        assert (result.adversarials - image).flatten().norm(p=p) == norms[wrong].min()
        assert result.step == wrong.nonzero()[0, 0]


def test_ddn_sets_out_where_the_cross_entropy_is_flat(network, images, labels):
    class Certain(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return 1e4 * self.network(x)

    attack = DDN(Certain())
    result = attack.run(images, labels)
    assert result.success.float().mean() > 0.9  # noise need not lead anywhere
    rows = torch.tensor([7, 3])
    again = attack.run(images[rows], labels[rows])
    torch.testing.assert_close(again.adversarials, result.adversarials[rows], atol=1e-4, rtol=0)
    other = DDN(Certain(), seed=1).run(images, labels)
    assert not torch.equal(other.adversarials, result.adversarials)


def test_ddn_rounds_to_levels(network, images, labels):
    images = (images * 255).round() / 255
    result = DDN(network, 50, levels=256).run(images, labels)
    assert result.success.all()
    scaled = result.adversarials * 255
    torch.testing.assert_close(scaled, scaled.round(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("norm", P)
def test_projection(norm):
    draw = torch.Generator().manual_seed(6)
    before = torch.randn(5, 1, 3, 3, generator=draw)
    radius = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])
    after = project(before, radius, norm)
    assert (after.flatten(1).norm(p=P[norm], dim=1) <= radius + 1e-5).all()
    assert torch.equal(after[4], before[4])
    # No random point of the ball is nearer than the projection.
    for _ in range(200):
        other = project(2 * torch.randn(5, 1, 3, 3, generator=draw), radius, norm)
        nearer = (other - before).flatten(1).norm(dim=1) - (after - before).flatten(1).norm(dim=1)
        assert (nearer >= -1e-5).all()


def test_projection_keeps_no_more_than_it_may_of_equals():
    after = project(torch.ones(2, 1, 2, 2), torch.tensor([1.0, 3.0]), "l0")
    assert after.flatten(1).tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


def of_foolbox(attack, network, images, labels, p):
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    found = attack.run(model, images, labels)
    norms = (found - images).flatten(1).norm(p=p, dim=1)
    wrong = network(found).argmax(1) != labels
    return torch.where(wrong, norms, torch.inf)


def of_ours(attack, images, labels, p):
    result = attack.run(images, labels)
    norms = (result.adversarials - images).flatten(1).norm(p=p, dim=1)
    return torch.where(result.success, norms, torch.inf)


def test_ddn_is_that_of_foolbox(network, images, labels):
    theirs = of_foolbox(foolbox.attacks.DDNAttack(), network, images, labels, 2)
    ours = of_ours(DDN(network), images, labels, 2)
    # Rounding may decide a step, and from there on the ways part.
    ratio = ours / theirs
    assert ratio.median() == pytest.approx(1, abs=1e-4)
    assert ((ratio - 1).abs() < 0.01).float().mean() > 0.9


@pytest.mark.parametrize(
    ("norm", "attack"),
    [
        ("linf", foolbox.attacks.LInfFMNAttack),
        ("l1", foolbox.attacks.L1FMNAttack),
        ("l2", foolbox.attacks.L2FMNAttack),
        ("l0", foolbox.attacks.L0FMNAttack),
    ],
)
def test_fmn_is_no_worse_than_that_of_foolbox(norm, attack, network, images, labels):
    theirs = of_foolbox(attack(), network, images, labels, P[norm])
    ours = of_ours(FMN(network, norm), images, labels, P[norm])
    assert ours.isfinite().all()
    ratio = ours / theirs
    assert ratio.median() <= 1.001
    if norm in ("linf", "l1"):  # where Foolbox projects as the paper does
        assert ratio.median() >= 0.999
