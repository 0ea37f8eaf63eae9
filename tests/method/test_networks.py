import pytest
import torch

from funn.method.networks import AutoEncoder, Classifier, ConvAutoEncoder, DenseAutoEncoder, Head

MODELS = [
    pytest.param(
        lambda noise, shape=(1, 28, 28): DenseAutoEncoder(shape, [16, 32], 64, noise), id="dense"
    ),
    pytest.param(
        lambda noise, shape=(1, 28, 28): ConvAutoEncoder(shape, [16, 32], 4, noise), id="conv"
    ),
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("noise", [0, 16])
def test_regenerates_images_in_the_box(make, noise):
    network: AutoEncoder = make(noise)
    x = torch.rand(3, 1, 28, 28) * 50 - 25
    z = torch.rand(3, noise) if noise else None
    assert network.encoder(x).shape == (3, network.features) == (3, 64)
    images = network(x, z)
    assert images.shape == x.shape
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("make", MODELS)
def test_noise_reaches_the_image_but_not_the_features(make):
    network = make(16)
    x = torch.rand(1, 1, 28, 28)
    a, b = (network(x, torch.full((1, 16), value)) for value in (0.0, 1.0))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 27, 30)])
def test_any_image_size(shape):
    network = DenseAutoEncoder(shape, [4, 8], 5)
    x = torch.rand(2, *shape)
    assert network(x).shape == x.shape


def test_the_paper_network_has_the_stated_layers():
    network = DenseAutoEncoder((1, 28, 28), [16, 32], 64, 16)
    weights = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert weights["encoder.0.weight"] == (16, 1, 3, 3)
    assert weights["encoder.2.weight"] == (32, 16, 3, 3)
    assert weights["encoder.5.weight"] == (64, 32 * 7 * 7)
    assert weights["generator.0.weight"] == (32 * 7 * 7, 64 + 16)
    assert weights["generator.3.weight"] == (32, 16, 3, 3)
    assert weights["generator.5.weight"] == (16, 1, 3, 3)
    # The feature layer has no activation: features take both signs.
    features = network.encoder(torch.rand(50, 1, 28, 28))
    assert features.min() < 0 < features.max()


def test_the_head_is_dense_64_relu_dense_10():
    head = Head(features=64, classes=10, hidden=[64])
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Linear"]
    assert head(torch.zeros(2, 64)).shape == (2, 10)


def test_a_classifier_is_its_encoder_and_its_head():
    auto = {"_target_": "funn.method.networks.DenseAutoEncoder", "image_shape": [1, 28, 28],
            "channels": [4], "features": 6, "noise": 0}  # fmt: skip
    head = {"_target_": "funn.method.networks.Head", "features": 6, "classes": 3, "hidden": [5]}
    model = Classifier(auto, head)
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(x), model.head(model.encoder(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseAutoEncoder((1, 28, 28), [0], 64), "channels"),
        (lambda: DenseAutoEncoder((1, 28, 28), [4], -1), "features"),
        (lambda: DenseAutoEncoder((1, 28, 28), [4], 6, -1), "noise"),
        (lambda: ConvAutoEncoder((1, 28, 28), [16, 32], 4, 5), "multiple of 16"),
        (lambda: Head(64, 10, [0]), "hidden"),
    ],
)
def test_sizes_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
