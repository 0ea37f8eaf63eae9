"""The ways of APGD, FAB and Square are those of the authors' code, query by query.

See autoattack_reference/make_reference.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from funn.attacks import APGD, FAB, Square
from funn.attacks.autoattack import apgd, square
from funn.attacks.autoattack.fab import to_plane

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def foolbox():
    with np.load(HERE / "foolbox_reference" / "reference.npz") as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


@pytest.fixture(scope="module")
def reference():
    with np.load(HERE / "autoattack_reference" / "reference.npz") as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


@pytest.fixture(scope="module")
def network(foolbox, reference):
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    for parameter, name in zip(network.parameters(), ("w1", "b1", "w2", "b2"), strict=True):
        parameter.data = foolbox[name].clone()
    network[3].bias.data[reference["label"]] += reference["reserve"]
    return network


def attack_named(name, network, norm, reference):
    eps, targets = reference[f"eps_{norm}"].item(), reference["targets"].item()
    return {
        "apgd_ce": lambda: APGD(network, norm, eps),
        "apgd_t": lambda: APGD(network, norm, eps, loss="dlr_targeted", targets=targets),
        "fab_t": lambda: FAB(network, norm, eps, targets=targets),
        "square": lambda: Square(network, norm, eps, reference["queries"].item()),
    }[name]()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["apgd_ce", "apgd_t", "fab_t", "square"])
def test_the_way_is_the_authors(monkeypatch, foolbox, reference, network, name, norm):
    """Every query, from the same random numbers, until an image is fooled, where ours stop."""
    attack = attack_named(name, network, norm, reference)
    images, labels = foolbox["images"].float() / 255, foolbox["labels"]
    probes = foolbox["probes"][: reference["probes"]]
    ways, fooled = reference[f"{name}_{norm}"], reference[f"{name}_{norm}_fooled"]
    assert not fooled.all()
    for row, way, theirs in zip(reference["rows"], ways, fooled, strict=True):
        image, queries = images[row : row + 1], []
        draw = torch.Generator().manual_seed(0)  # goes on from start to start, as the authors' does
        for module in (apgd, square):
            monkeypatch.setattr(module, "image_generator", lambda *_, draw=draw: draw)
        handle = network.register_forward_pre_hook(
            lambda _, inputs, queries=queries: queries.append(inputs[0].detach().clone())
        )
        result = attack.run(image, labels[row : row + 1])
        handle.remove()
        assert result.success.item() == theirs
        noise = torch.stack([(query - image).flatten() for query in queries])
        ours = noise[noise.any(1)] @ probes.T
        expected = way[~way.isnan().any(1)]
        if not theirs:
            # In Square's code a last look at the best image follows.
            assert len(expected) - len(ours) == (1 if name == "square" else 0)
        torch.testing.assert_close(ours, expected[: len(ours)], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_step_to_a_plane_is_the_smallest_in_the_box(norm):
    """Against bisection; and beyond the box as far as it allows."""
    draw = torch.Generator().manual_seed(0)
    points = (2 * torch.rand(200, 30, generator=draw) - 0.5).clamp(0, 1)
    slope = torch.randn(200, 30, generator=draw)
    slope[:, :3] = 0
    slope[-1] = 0
    value = 12 * torch.randn(200, generator=draw)
    value[-2] = 0
    steps = to_plane(points, slope, value, norm)
    after = points + steps
    assert ((after >= -1e-6) & (after <= 1 + 1e-6)).all()

    way = -value.sign()[:, None] * (slope if norm == "l2" else slope.sign())
    low, high = torch.zeros(200, 1), torch.full((200, 1), 1e6)
    for _ in range(100):
        middle = (low + high) / 2
        moved = (points + middle * way).clamp(0, 1) - points
        over = ((slope * moved).sum(1) + value).sign() != value.sign()
        low, high = middle.where(~over[:, None], low), middle.where(over[:, None], high)
    expected = (points + high * way).clamp(0, 1) - points
    left = (slope * steps).sum(1) + value
    within = left.abs() < 1e-4
    assert 50 < within.sum() < 195
    torch.testing.assert_close(steps, expected, atol=1e-3, rtol=1e-3)


def test_when_a_step_is_halved():
    """Where too few steps rose, or where none rose above the best and the step was kept before."""
    windows = apgd.checkpoints(100)
    assert list(windows.items())[:4] == [(22, 22), (41, 19), (57, 16), (70, 13)]
    assert set(list(windows.values())[5:]) == {7, 6}

    ascent = apgd._Ascent(torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 1, 1), "linf", 0.5)
    everyone, flat = torch.arange(4), torch.zeros(4, 1, 1, 1)
    ascent.look(everyone, torch.tensor([1.0, 1.0, -1.0, 1.0]), flat, 0)
    ascent.look(everyone, torch.tensor([0.5, 2.0, -0.5, 2.0]), flat, 1)
    assert ascent.rises.tolist() == [1, 1, 0, 1]  # the first is compared with 0
    assert ascent.best.tolist() == [1, 2, -0.5, 2]
    ascent.rises = torch.tensor([7.0, 8.0, 8.0, 7.0])
    ascent.check(everyone, 0.75 * 10)
    assert ascent.size.flatten().tolist() == [0.5, 1, 1, 0.5]
    ascent.rises = torch.full((4,), 8.0)
    ascent.best[2] += 1
    ascent.check(everyone, 0.75 * 10)
    assert ascent.size.flatten().tolist() == [0.5, 0.5, 1, 0.5]
    assert APGD(torch.nn.Identity(), eps=0.5).rho == 0.75


def test_the_clean_image_draws_by_a_tenth_at_most(network):
    """A step is (1 - share) of that from where one is, and a share of that from the clean image."""
    x, clean = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.4)
    gradient, value = torch.tensor([[[[1.0, 0.2], [0.0, 0.1]]]]), torch.tensor([-0.1])
    none, tenth, fifth = (
        FAB(network, alpha_max=share)._step(x, clean, value, gradient) for share in (0, 0.1, 0.2)
    )
    torch.testing.assert_close(fifth - none, 2 * (tenth - none))
    assert (fifth != tenth).any()
    assert torch.equal(FAB(network)._step(x, clean, value, gradient), tenth)
    # Linear, so that a step of eta = 1.05 overshoots by 5 %.
    assert ((none - x) * gradient).sum().item() == pytest.approx(0.105)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_nearest_that_fab_finds_answers_for_every_eps(foolbox, network, norm):
    images, labels = foolbox["images"].float() / 255, foolbox["labels"]
    nearest = FAB(network, norm, None, steps=20, targets=3).run(images, labels)
    noise = (nearest.adversarials - images).flatten(1)
    length = noise.abs().amax(1) if norm == "linf" else noise.square().sum(1).sqrt()
    length = length.where(nearest.success, torch.inf)
    median = length[nearest.success].median().item()
    for eps in (0.7 * median, median, 1.3 * median):
        result = FAB(network, norm, eps, steps=20, targets=3).run(images, labels)
        assert torch.equal(result.success, length <= eps)
        assert 0 < result.success.sum() < len(images)
