"""The attacks against slow, obvious loops over one image at a time, and against torchattacks."""

import numpy as np
import pytest
import torch
import torchattacks
from torch import nn

from funn.attacks import BIM, FGSM, Gradient, LocalSearch, SinglePixel
from funn.attacks.core.randomness import image_generator

SIDE = 8
COUNT = 24


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 12), nn.Tanh(), nn.Linear(12, 5))
    with torch.no_grad():
        network[1].weight *= 2
    return network


@pytest.fixture(scope="module")
def images():
    """Black and white with some grey, so that the box clips."""
    draw = torch.Generator().manual_seed(4)
    return (2 * torch.rand(COUNT, 1, SIDE, SIDE, generator=draw) - 0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def labels(network, images):
    return network(images).argmax(1)


def logits_of(network, image):
    with torch.no_grad():
        return network(torch.from_numpy(image)[None])[0].numpy()


def gradient_of(network, image, label):
    x = torch.from_numpy(image)[None].requires_grad_()
    loss = nn.functional.cross_entropy(network(x), torch.tensor([label]))
    return torch.autograd.grad(loss, x)[0][0].numpy()


def is_wrong(network, image, label):
    return logits_of(network, image).argmax() != label


def check(result, oracle, images, labels):
    """Compare with `oracle(image, label)`, the adversarial and how many were tried, or None."""
    assert result.success.any()
    for i, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        expected = oracle(image, label)
        assert result.success[i].item() == (expected is not None)
        if expected is not None:
            np.testing.assert_allclose(result.adversarials[i].numpy(), expected[0], atol=1e-6)
            assert result.step[i] == expected[1]


def line_search(network, image, label, direction, max_epsilon):
    """Foolbox 1.x's SingleStepGradientBaseAttack, literally."""
    best, tried, first = None, 0, None
    epsilons = np.linspace(0, max_epsilon, 1001)[1:]
    for _ in range(2):
        for i, epsilon in enumerate(epsilons):
            x = np.clip(image + np.float32(epsilon) * direction, 0, 1)
            tried += 1
            if is_wrong(network, x, label):
                first = first or tried
                distance = np.square(x - image).sum()
                if best is None or distance < best[1]:
                    best = x, distance
                if i < 20:
                    break
                return best[0], first
        epsilons = np.linspace(0, epsilons[i], 21)[1:]
    return best and (best[0], first)


@pytest.mark.parametrize("eps", [0.05, 0.2, 5.0])
def test_fgsm_searches_as_foolbox(network, images, labels, eps):
    def oracle(image, label):
        direction = np.sign(gradient_of(network, image, label))
        return line_search(network, image, label, direction, eps)

    result = FGSM(network, eps, "foolbox1").run(images, labels)
    check(result, oracle, images, labels)
    if eps == 0.05:
        assert not result.success.all()
        failed = ~result.success
        largest = FGSM(network, eps)(images, labels)
        assert torch.equal(result.adversarials[failed], largest[failed])


@pytest.mark.parametrize("eps", [0.1, 5.0])
def test_gradient_searches_as_foolbox(network, images, labels, eps):
    def oracle(image, label):
        gradient = gradient_of(network, image, label)
        direction = gradient / (np.sqrt(np.mean(np.square(gradient))) + 1e-8)
        return line_search(network, image, label, direction, eps)

    check(Gradient(network, eps, "foolbox1").run(images, labels), oracle, images, labels)


def test_bim_searches_as_foolbox(network, images, labels):
    eps, steps = 0.2, 5

    def oracle(image, label):
        best, tried, first = None, 0, None
        for epsilon in np.linspace(0, eps / steps, 101)[1:]:
            x = image
            for _ in range(steps):
                sign = np.sign(gradient_of(network, x, label))
                x = np.clip(x + np.float32(epsilon) * sign, 0, 1)
                tried += 1
                distance = np.square(x - image).astype(np.float64).sum()
                if is_wrong(network, x, label):
                    first = first or tried
                    if best is None or distance < best[1]:
                        best = x, distance
        return best and (best[0], first)

    images, labels = images[:6], labels[:6]
    result = BIM(network, eps, steps=steps, protocol="foolbox1").run(images, labels)
    check(result, oracle, images, labels)
    assert (result.forwards == 1 + 100 * steps).all()
    assert (result.backwards == 1 + 100 * (steps - 1)).all()


@pytest.mark.parametrize("eps", [0.005, 0.1])
def test_strict_fgsm_and_bim_are_those_of_torchattacks(network, images, labels, eps):
    fgsm, bim = FGSM(network, eps), BIM(network, eps, alpha=eps / 5, steps=10)
    for ours, theirs in (
        (fgsm, torchattacks.FGSM(network, eps)),
        (bim, torchattacks.BIM(network, eps, alpha=eps / 5, steps=10)),
    ):
        expected = theirs(images, labels)
        torch.testing.assert_close(ours(images, labels), expected, atol=1e-6, rtol=0)
        assert torch.equal(ours.run(images, labels).success, network(expected).argmax(1) != labels)
    assert (bim.run(images, labels).forwards == 11).all()
    assert (bim.run(images, labels).backwards == 10).all()


def test_bim_alpha_is_a_thousandth_unless_given(network, images, labels):
    assert torch.equal(BIM(network)(images, labels), BIM(network, alpha=0.001)(images, labels))


@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_strict_gradient_has_the_given_length(network, images, labels, scale):
    """Whatever the size of the gradient, so that saturation alone does not defend."""
    scaled = nn.Sequential(network, Times(scale))
    inner = images * 0.2 + 0.4  # nothing is clipped
    labels = network(inner).argmax(1)
    moved = Gradient(scaled, 0.1)(inner, labels)
    step = (moved - inner).flatten(1)
    torch.testing.assert_close(step.norm(dim=1), torch.full((COUNT,), 0.1), rtol=1e-4, atol=0)
    for i in range(COUNT):
        gradient = torch.from_numpy(gradient_of(network, inner[i].numpy(), int(labels[i])))
        assert torch.cosine_similarity(step[i], gradient.flatten(), dim=0) > (
            0.999 if scale == 1 else 0.8  # softmax of tiny logits weighs the classes alike
        )


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("max_pixels", [10, 1000])
def test_single_pixel_takes_the_first_success(network, images, labels, max_pixels):
    def oracle(image, label):
        draw = image_generator("single pixel", 7, torch.from_numpy(image))
        tried = 0
        for pixel in torch.randperm(SIDE**2, generator=draw)[:max_pixels].tolist():
            for value in (0, 1):
                x = image.copy()
                x[:, pixel // SIDE, pixel % SIDE] = value
                if np.array_equal(x, image):
                    continue
                tried += 1
                if is_wrong(network, x, label):
                    return x, tried
        return None

    attack = SinglePixel(network, max_pixels, seed=7)
    attack.batch_size = 5
    result = attack.run(images, labels)
    check(result, oracle, images, labels)
    assert not result.success.all()
    failed = ~result.success
    assert torch.equal(result.adversarials[failed], images[failed])


def test_the_seed_decides_which_pixel_but_not_whether(network, images, labels):
    one, two = (SinglePixel(network, seed=seed).run(images, labels) for seed in (0, 1))
    assert torch.equal(one.success, two.success)
    assert not torch.equal(one.adversarials, two.adversarials)


@pytest.mark.parametrize("order", ["fixed", "foolbox1"])
@pytest.mark.parametrize("d", [0, 2])
def test_local_search_as_foolbox(network, images, labels, order, d):
    t, rounds, r, p = 3, 8, 1.5, 10.0

    def perturb(value):
        value = r * value
        return value + 1 if value < -0.5 else value - 1 if value > 0.5 else value

    def oracle(image, label):
        draw = image_generator("local search", 0, torch.from_numpy(image))
        grey, near, most = image[0] - 0.5, range(SIDE**2), int(0.1 * SIDE**2)
        for number in range(1, rounds + 1):
            keys = torch.rand(SIDE**2, generator=draw).tolist()
            probed = sorted(near, key=lambda pixel: keys[pixel])[:most]
            scores = {}
            for pixel in probed:
                x = grey.copy().ravel()
                x[pixel] = p * np.sign(x[pixel])
                logits = logits_of(network, (x.reshape(1, SIDE, SIDE) + 0.5).astype(np.float32))
                scores[pixel] = np.exp(logits[label]) / np.exp(logits).sum()
            best = sorted(probed, key=scores.get, reverse=order == "fixed")[:t]
            near, most = set(), 128
            for y, x in (divmod(pixel, SIDE) for pixel in best):
                grey[y, x] = perturb(grey[y, x])
                near |= {
                    SIDE * b + a
                    for b in range(max(0, y - d), min(SIDE, y + d + 1))
                    for a in range(max(0, x - d), min(SIDE, x + d + 1))
                }
            if is_wrong(network, grey[None] + np.float32(0.5), label):
                return grey[None] + 0.5, number
        return None

    if order == "foolbox1":  # on black and white it goes the wrong way and never succeeds
        images = images / 2 + 0.25
        labels = network(images).argmax(1)
    result = LocalSearch(network, r, p, d, t, rounds, order).run(images, labels)
    check(result, oracle, images, labels)
    assert (result.step == 0).sum() == 0


def test_local_search_leaves_other_pixels_as_they_are(network, images, labels):
    images = images[:, :, :3, :3]  # so small that a tenth of it is no pixel
    small = nn.Sequential(nn.ZeroPad2d((0, 5, 0, 5)), network)
    labels = small(images).argmax(1)
    result = LocalSearch(small, R=1).run(images, labels)
    changed = (result.adversarials != images).flatten(1).sum(1)
    assert changed.max() == 1
    assert (result.forwards == 3).all()


def test_local_search_gives_up_without_finite_probes(images):
    class Strict(nn.Module):
        def forward(self, x):
            inside = ((x >= 0) & (x <= 1)).flatten(1).all(1, keepdim=True)
            return torch.where(inside, torch.tensor([1.0, 0.0]), torch.nan)

    model = Strict()
    model.scale = nn.Parameter(torch.zeros(()))
    result = LocalSearch(model, R=150).run(images, torch.zeros(COUNT, dtype=torch.int64))
    assert not result.success.any()
    assert torch.equal(result.adversarials, images)
    assert (result.forwards == 1 + int(0.1 * SIDE**2)).all()
