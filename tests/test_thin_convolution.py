"""The faster thin convolutions compute what torch's do, with every gradient."""

import pytest
import torch
from torch import nn

from funn.networks import DenseAutoEncoder
from funn.thin_convolution import (
    ThinConv2d,
    ThinConvTranspose2d,
    use_thin_convolutions,
    with_thin_convolutions,
)


def gradients(model, x):
    """The output, and the gradients of the image and of each parameter that wants one."""
    x = x.clone().requires_grad_()
    output = model(x)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    return output, *torch.autograd.grad((output * weights).sum(), wanted)


def assert_same(thin, plain, x):
    assert thin.state_dict().keys() == plain.state_dict().keys()
    for ours, theirs in zip(gradients(thin, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(28, 28), (7, 7), (1, 1), (4, 5), (32, 31)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_convolution(size, channels, bias, trained):
    convolution = nn.Conv2d(channels, 5, 3, stride=2, padding=1, bias=bias).double()
    plain = nn.Sequential(convolution, nn.ReLU()).requires_grad_(trained)
    thin = with_thin_convolutions(plain)
    assert isinstance(thin[0], ThinConv2d)
    assert_same(thin, plain, torch.rand(6, channels, *size, dtype=torch.float64))


@pytest.mark.parametrize("size", [(14, 14), (1, 1), (4, 5)])
@pytest.mark.parametrize("padding", [0, 1, (0, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_transposed_convolution(size, padding, bias, trained):
    convolution = nn.ConvTranspose2d(
        5, 1, 3, stride=2, padding=1, output_padding=padding, bias=bias
    ).double()
    plain = nn.Sequential(convolution, nn.ReLU()).requires_grad_(trained)
    thin = with_thin_convolutions(plain)
    assert isinstance(thin[0], ThinConvTranspose2d)
    assert_same(thin, plain, torch.rand(6, 5, *size, dtype=torch.float64))


def test_in_place_the_parameters_stay_the_same_objects():
    network = DenseAutoEncoder((1, 28, 28), [4, 8], 6)
    before = dict(network.named_parameters())
    use_thin_convolutions(network)
    after = dict(network.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert isinstance(network.encoder[0], ThinConv2d)
    assert isinstance(network.generator[-2], ThinConvTranspose2d)


def test_other_convolutions_stay():
    """Other kernels, strides, paddings, groups, more channels; and the model that was given."""
    others = [
        nn.Conv2d(1, 4, 5, stride=2, padding=1),
        nn.Conv2d(1, 4, 3, stride=1, padding=1),
        nn.Conv2d(1, 4, 3, stride=2),
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(1, 4, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(1, 4, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 4, 3, stride=2, padding=1),
        nn.ConvTranspose2d(4, 16, 3, stride=2, padding=1),
        nn.ConvTranspose2d(4, 1, 3, stride=2),
    ]
    kept = with_thin_convolutions(nn.ModuleList(others))
    assert [type(module) for module in kept] == [type(module) for module in others]
    given = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1))
    with_thin_convolutions(given)
    assert type(given[0]) is nn.Conv2d
