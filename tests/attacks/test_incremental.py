"""Probes computed from the layers are what the network makes of the changed images."""

import pytest
import torch
from torch import nn

from funn.attacks import LocalSearch, SinglePixel
from funn.attacks.pixel.incremental import known_layers, probe_by_images, probe_by_layers
from funn.attacks.pixel.local_search import local_search
from funn.attacks.pixel.single_pixel import single_pixel
from funn.fast_layers import with_fast_layers
from funn.method.networks import Classifier
from funn.runtime.seeding import generator


def convolutional(channels, kernel, stride, padding, side, depth=2):
    torch.manual_seed(0)
    layers, x = [], torch.zeros(1, channels, side, side)
    for inputs, outputs in [(channels, 4), (4, 5), (5, 6)][:depth]:
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
    flat = nn.Sequential(*layers)(x).numel()
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(flat, 7), nn.Sequential(nn.ReLU(), nn.Linear(7, 3))
    )


def classifier():
    torch.manual_seed(0)
    return Classifier(
        {
            "_target_": "funn.method.networks.DenseAutoEncoder",
            "image_shape": [1, 28, 28],
            "channels": [4, 8],
            "features": 6,
        },
        {"_target_": "funn.method.networks.Head", "features": 6, "classes": 10, "hidden": [5]},
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("side", [17, 20])
def test_every_pixel(channels, kernel, stride, padding, side):
    model = convolutional(channels, kernel, stride, padding, side).double().requires_grad_(False)
    assert_every_pixel(model, channels, side)


@pytest.mark.parametrize("depth", [1, 3])
def test_other_depths(depth):
    model = convolutional(1, 3, 2, 1, 13, depth).double().requires_grad_(False)
    assert_every_pixel(model, 1, 13)


@pytest.mark.parametrize("thin", [True, False])
def test_the_papers_network(thin):
    model = classifier().double().requires_grad_(False)
    assert_every_pixel(with_fast_layers(model) if thin else model, 1, 28)


def assert_every_pixel(model, channels, side):
    images = torch.rand(2, channels, side, side, dtype=torch.float64)
    pixels = torch.arange(side**2).repeat(2)
    owners = torch.arange(2).repeat_interleave(side**2)
    values = 20 * torch.rand(len(owners), channels, dtype=torch.float64) - 10
    layers = known_layers(model)
    assert layers is not None
    ours = probe_by_layers(layers, images)(owners, pixels, values)
    theirs = probe_by_images(model, images, 100)(owners, pixels, values)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_networks_of_other_layers_are_not_known():
    known = convolutional(1, 3, 2, 1, 8)
    assert known_layers(known) is not None
    others = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(72, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        nn.Sequential(nn.BatchNorm2d(1), *known),
        nn.Sequential(*known, nn.Softmax(1)),
        nn.ModuleList(known),
    ]
    assert [known_layers(model) for model in others] == [None] * len(others)


def test_attacks_end_alike_with_and_without_known_layers():
    model = classifier().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # an untrained network without biases is easily fooled
            parameter.zero_()
    images = torch.rand(30, 1, 28, 28, generator=generator("images"))
    labels = model(images).argmax(1)
    layers = known_layers(model)
    settings = {
        single_pixel: {"max_pixels": 1000, "seed": 0},
        local_search: {"r": 1.5, "p": 10.0, "d": 5, "t": 5, "R": 9, "order": "fixed", "seed": 0},
    }
    for attack, options in settings.items():
        fast = attack(model, images, labels, batch_size=128, layers=layers, **options)
        plain = attack(model, images, labels, batch_size=128, **options)
        assert torch.equal(fast.adversarials, plain.adversarials)
        assert torch.equal(fast.step, plain.step)
        assert torch.equal(fast.forwards, plain.forwards)
        assert fast.success.any()


def test_normalisation_in_front_is_not_skipped():
    model = classifier()
    for attack in (SinglePixel(model), LocalSearch(model)):
        images = torch.rand(2, 1, 28, 28)
        assert attack.known_layers(images) is not None
        attack.set_normalization_used([0.1], [0.3])
        assert attack.known_layers(images) is None
