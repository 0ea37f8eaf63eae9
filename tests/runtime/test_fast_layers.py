"""The faster layers compute what torch's do, with every gradient."""

import pytest
import torch
from torch import nn

from funn.fast_layers import use_fast_layers, with_fast_layers
from funn.method.networks import DenseAutoEncoder
from funn.runtime.convolution import ThinConv2d, ThinConvTranspose2d
from funn.runtime.linear import DenseProduct


def gradients(model, x):
    """The output, and the gradients of the image and of each parameter that wants one."""
    x = x.clone().requires_grad_()
    output = model(x)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    return output, *torch.autograd.grad((output * weights).sum(), wanted)


def assert_same(fast, plain, x, tolerance=1e-12):
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for ours, theirs in zip(gradients(fast, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [(28, 28), (7, 7), (1, 1), (4, 5), (32, 31)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_convolution(size, channels, bias, trained):
    convolution = nn.Conv2d(channels, 5, 3, stride=2, padding=1, bias=bias).double()
    plain = nn.Sequential(convolution, nn.ReLU()).requires_grad_(trained)
    thin = with_fast_layers(plain)
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
    thin = with_fast_layers(plain)
    assert isinstance(thin[0], ThinConvTranspose2d)
    assert_same(thin, plain, torch.rand(6, 5, *size, dtype=torch.float64))


@pytest.mark.parametrize("sizes", [(300, 100), (100, 300)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("images", [1, 128])
def test_dense_layer(sizes, bias, trained, images):
    plain = nn.Sequential(nn.Linear(*sizes, bias=bias), nn.ReLU()).requires_grad_(trained)
    fast = with_fast_layers(plain)
    assert isinstance(fast[0], DenseProduct)
    assert_same(fast, plain, torch.rand(images, sizes[0]), 1e-5)
    assert_same(fast.double(), plain.double(), torch.rand(images, sizes[0], dtype=torch.float64))


def test_large_products_are_left_to_onednn():
    x = torch.rand(128, 300, requires_grad=True)
    assert type(DenseProduct(nn.Linear(300, 100))(x).grad_fn).__name__ == "_ProductBackward"
    assert type(DenseProduct(nn.Linear(300, 10))(x).grad_fn).__name__ == "AddmmBackward0"


def test_without_onednn_torch_computes_them(monkeypatch):
    monkeypatch.setattr("funn.runtime.linear._onednn", None)
    plain = nn.Sequential(nn.Linear(300, 100))
    assert_same(with_fast_layers(plain), plain, torch.rand(128, 300))


def test_in_place_the_parameters_stay_the_same_objects():
    network = DenseAutoEncoder((1, 28, 28), [4, 8], 6)
    before = dict(network.named_parameters())
    use_fast_layers(network)
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
    kept = with_fast_layers(nn.ModuleList(others))
    assert [type(module) for module in kept] == [type(module) for module in others]
    given = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1))
    with_fast_layers(given)
    assert type(given[0]) is nn.Conv2d
