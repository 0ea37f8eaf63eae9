"""The faster gradient of thin convolutions is the gradient."""

import pytest
import torch
from torch import nn

from funn.attacks.thin_convolution import ThinConv2d, with_thin_convolutions


def gradient(model, x):
    x = x.clone().requires_grad_()
    output = model(x)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return output, torch.autograd.grad((output * weights).sum(), x)[0]


@pytest.mark.parametrize("size", [(28, 28), (7, 7), (1, 1), (4, 5), (32, 31)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_gradient(size, channels, bias):
    convolution = nn.Conv2d(channels, 5, 3, stride=2, padding=1, bias=bias).double()
    plain = nn.Sequential(convolution, nn.ReLU()).requires_grad_(False)
    thin = with_thin_convolutions(plain)
    assert isinstance(thin[0], ThinConv2d)
    assert thin.state_dict().keys() == plain.state_dict().keys()
    x = torch.rand(6, channels, *size, dtype=torch.float64)
    for ours, theirs in zip(gradient(thin, x), gradient(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


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
    ]
    kept = with_thin_convolutions(nn.ModuleList(others))
    assert [type(module) for module in kept] == [nn.Conv2d] * len(others)
    given = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1))
    with_thin_convolutions(given)
    assert type(given[0]) is nn.Conv2d


def test_weights_that_train_get_their_gradient():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1))
    with_thin_convolutions(model)(torch.rand(2, 1, 8, 8)).sum().backward()
    thin = with_thin_convolutions(model)
    thin(torch.rand(2, 1, 8, 8)).sum().backward()
    assert thin[0].weight.grad is not None
