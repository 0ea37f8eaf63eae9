"""What is particular to each defence next to FUNN."""

import pytest
import torch

from funn.attacks import PGD
from funn.attacks.fixed_budget.detector_aware import DetectorAware
from funn.config.build import build_module
from funn.config.schema import TrainerConfig
from funn.data.batches import TensorBatches
from funn.data.images import to_unit
from funn.data.synthetic import SyntheticDigits
from funn.defenses.adversarial_training import PGDTraining
from funn.defenses.apegan import APEGAN, APEGANTraining, Discriminator
from funn.defenses.denoising import DenoisingTraining, add_noise, noise_for
from funn.defenses.magnet.model import MagNet
from funn.defenses.magnet.training import MagNetTraining
from funn.method.networks import Classifier, DenseAutoEncoder
from funn.method.objectives import mse
from funn.runtime.seeding import generator
from funn.training.checkpoint import Saved, load, save
from funn.training.fit import fit
from funn.training.stage import Fit

CPU = TrainerConfig(accelerator="cpu", devices=1)


@pytest.mark.parametrize("perturbation", [0.0129, 0.05])
def test_the_noise_has_the_size_that_was_asked_for(perturbation):
    x = torch.rand(200, 1, 28, 28, generator=generator("images")) ** 4
    noisy = add_noise(x, noise_for(perturbation, x), generator("other"))
    assert mse(noisy, x).item() == pytest.approx(perturbation, rel=0.02)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert noise_for(0.0, x) == 0


def test_denoising_moves_the_encoder_alone(tmp_path):
    torch.manual_seed(0)
    defender = DenseAutoEncoder((1, 8, 8), [4, 8], 6)
    before = {name: value.clone() for name, value in defender.state_dict().items()}
    module = DenoisingTraining(Saved({}, defender), sigma=0.2, lr=1e-2, seed=0)
    images = torch.rand(40, 1, 8, 8)
    fit(Fit(module, TensorBatches(images, torch.zeros(40), 10, 0), 2), tmp_path, CPU, [], "test")
    moved = {name for name, value in defender.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all(name.startswith("encoder") for name in moved)


def test_magnet_rejects_what_its_auto_encoders_cannot_restore(tmp_path):
    head = {"_target_": "funn.method.networks.Head", "features": 64, "classes": 2, "hidden": []}
    magnet = MagNet(head, channels=1, filters=3)
    assert not magnet.rejects(torch.rand(5, 1, 8, 8)).any()  # no threshold is set yet
    images, _ = squares(300)
    module = MagNetTraining(Saved({}, magnet), held_out=images[:100], drop_rate=0.05, lr=1e-2)
    pairs = torch.stack((images[100:], images[100:]), dim=1)
    before = magnet.classifier[0].weight.clone()
    fit(Fit(module, TensorBatches(pairs, torch.zeros(200), 20, 0), 3), tmp_path, CPU, [], "test")
    assert torch.equal(magnet.classifier[0].weight, before)
    scores = magnet.scores(images[:100])
    # The fifth largest of a hundred: those that reach it are rejected.
    assert torch.equal((scores >= magnet.thresholds).sum(0), torch.tensor([5, 5]))
    assert magnet.rejects(images[:100]).float().mean() <= 0.1
    strange = torch.rand(50, 1, 8, 8, generator=generator("strange")).round()
    assert magnet.rejects(strange).float().mean() > 0.9


class Guarded(torch.nn.Module):
    """Class 1 to the right of x0 = 0.5; rejects images with x1 above 0.2, which lies on the way."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.thresholds = torch.tensor([0.2])

    def forward(self, x):
        push = 4 * (x[:, 0, 0, 0] - 0.5) + 4 * x[:, 0, 0, 1]
        return torch.stack((torch.zeros_like(push), self.scale * push), dim=1)

    def scores(self, x):
        return x[:, 0, 0, 1:2]

    def rejects(self, x):
        return (self.scores(x) >= self.thresholds).any(1)


def test_an_attacker_who_knows_the_detector_goes_around_it():
    image, label = torch.tensor([[[[0.0, 0.0]]]]), torch.tensor([0])
    model = Guarded()
    blind = PGD(model, "l2", 0.45, steps=50).run(image, label)
    assert blind.success
    assert model.rejects(blind.adversarials)
    aware = DetectorAware(model, "l2", 0.45, steps=50, weight=100.0).run(image, label)
    assert aware.success
    assert not model.rejects(aware.adversarials)
    # Within 0.357 the boundary is in reach (0.354), but not without being seen (0.361).
    assert PGD(model, "l2", 0.357, steps=50, step_size=0.1).run(image, label).success
    assert not DetectorAware(model, "l2", 0.357, steps=50, weight=100.0).run(image, label).success


def squares(count, shape=(1, 8, 8)):
    """Two classes: the bright half is on the left or on the right."""
    draw = generator("squares")
    labels = torch.randint(0, 2, (count,), generator=draw)
    images = 0.5 * torch.rand(count, *shape, generator=draw)
    for label in (0, 1):
        images[labels == label, :, :, 4 * label : 4 * label + 4] += 0.5
    return images, labels


# A bare classifier of `squares`, with a dropout that only its eval mode leaves out.
BARE = {
    "_target_": "funn.defenses.magnet.classifier.CarliniWagnerNet",
    "channels": 1,
    "side": 16,
    "classes": 2,
}


def magnet_training():
    """MagNet on pairs of the images themselves."""
    spec = {
        "_target_": "funn.defenses.magnet.model.MagNet",
        "classifier": BARE,
        "channels": 1,
        "filters": 3,
    }
    images, labels = squares(120, (1, 16, 16))
    module = MagNetTraining(
        Saved(spec, build_module(spec)), held_out=images, drop_rate=0.1, lr=1e-2
    )
    return module, TensorBatches(torch.stack((images, images), dim=1), labels, 20, 0)


def apegan_training():
    spec = {
        "_target_": "funn.defenses.apegan.APEGAN",
        "classifier": BARE,
        "channels": 1,
        "filters": 4,
    }
    module = APEGANTraining(
        Saved(spec, build_module(spec)), Discriminator((1, 16, 16), 4), eps=0.15,
        weights=(0.7, 0.3), lr=2e-3,
    )  # fmt: skip
    return module, TensorBatches(*squares(120, (1, 16, 16)), 20, 0)


# A row for each defence that stands in front of a classifier.
@pytest.mark.parametrize("training", [magnet_training, apegan_training])
def test_what_stands_in_front_of_a_classifier(tmp_path, training):
    ends = []
    for name, parts in (("whole", [2]), ("resumed", [1, 2])):
        for epochs in parts:
            torch.manual_seed(0)
            module, batches = training()
            guarded = module.saved["classifier"][1]
            bare, labels = guarded.classifier.state_dict(), batches.labels.clone()
            bare = {key: value.clone() for key, value in bare.items()}
            fit(Fit(module, batches, epochs), tmp_path / name, CPU, [], "test")
            assert_equal(guarded.classifier.state_dict(), bare)
            assert torch.equal(batches.labels, labels)
        ends.append(guarded.state_dict())
    assert_equal(*ends)

    save(tmp_path / "model.ckpt", module.saved)
    loaded = load(tmp_path / "model.ckpt")
    assert loaded.keys() == {"classifier"}
    images, _ = squares(20, (1, 16, 16))
    model = loaded["classifier"].module
    assert not model.classifier.training
    logits = model(images)
    assert torch.equal(logits, guarded.eval()(images))
    assert not torch.allclose(logits, model.classifier(images))
    torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), logits)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_apegan_restores_what_fgsm_did_to_an_image(tmp_path):
    images, labels = SyntheticDigits(tmp_path, train_size=1000, test_size=10).train
    images = to_unit(images)
    torch.manual_seed(0)
    apegan = APEGAN({"_target_": "torch.nn.Identity"}, channels=1, filters=8)
    apegan.classifier = torch.nn.Sequential(torch.nn.Flatten(), least_squares(images, labels))
    module = APEGANTraining(
        Saved({}, apegan), Discriminator((1, 28, 28), 8), eps=0.1, weights=(0.7, 0.3), lr=2e-3,
    )  # fmt: skip
    # The last images are not trained on.
    batches = TensorBatches(images[:800], labels[:800], 40, 0)
    attacked, labels = module.attack(images[800:], labels[800:]), labels[800:]
    assert (attacked - images[800:]).abs().max() <= 0.1 + 1e-6

    def accuracy(model):
        return (model(attacked).argmax(1) == labels).float().mean().item()

    def error():
        return mse(images[800:], apegan.eval().generator(attacked)).item()

    assert accuracy(apegan.classifier) < 0.2
    before = error()
    apegan.generator.train()
    fit(Fit(module, batches, 4), tmp_path, CPU, [], "test")
    assert error() < before / 4
    assert accuracy(apegan) > 0.8


def least_squares(images, labels):
    """A linear classifier, fitted at once."""
    flat = images.flatten(1)
    layer = torch.nn.Linear(flat.shape[1], 10)
    gram = flat.T @ flat + torch.eye(flat.shape[1])
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.solve(gram, flat.T @ torch.eye(10)[labels]).T)
        layer.bias.zero_()
    return layer


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("linf", 0.2)])
def test_adversarial_training_makes_a_classifier_robust(tmp_path, norm, eps):
    images, labels = squares(400)
    spec = {
        "_target_": "funn.method.networks.Classifier",
        "autoencoder": {
            "_target_": "funn.method.networks.DenseAutoEncoder",
            "image_shape": [1, 8, 8],
            "channels": [4, 8],
            "features": 6,
        },
        "head": {
            "_target_": "funn.method.networks.Head",
            "features": 6,
            "classes": 2,
            "hidden": [8],
        },
    }
    survivors = {}
    for radius in (1e-6, eps):
        torch.manual_seed(0)
        classifier = build_module(spec)
        assert isinstance(classifier, Classifier)
        module = PGDTraining(
            Saved(spec, classifier), norm=norm, eps=radius, steps=5, warm_epochs=2, lr=5e-3, seed=0,
        )  # fmt: skip
        batches = TensorBatches(images, labels, 20, 0)
        fit(Fit(module, batches, 6), tmp_path / str(radius), CPU, [], "test")
        result = PGD(classifier.eval(), norm, eps, steps=20).run(images, labels)
        survivors[radius] = (~result.success).float().mean().item()
    assert survivors[eps] > survivors[1e-6] + 0.1


@pytest.mark.parametrize(("norm", "order", "dual"), [("l2", 2, 2), ("linf", torch.inf, 1)])
def test_pgd_crosses_a_plane_exactly_if_it_is_within_reach(norm, order, dual):
    """A linear classifier whose boundary is at distance 0.1 from the image."""
    weights = torch.randn(64, generator=generator("plane"))
    layer = torch.nn.Linear(64, 2)
    image = torch.full((1, 1, 8, 8), 0.5)
    with torch.no_grad():
        layer.weight.copy_(torch.stack((torch.zeros(64), weights)))
        distance = 0.1
        shift = weights @ image.flatten() + distance * weights.norm(p=dual)
        layer.bias.copy_(torch.stack((torch.zeros(()), -shift)))
    model = torch.nn.Sequential(torch.nn.Flatten(), layer)
    label = torch.tensor([0])
    assert not PGD(model, norm, 0.099, steps=50, step_size=0.03).run(image, label).success
    result = PGD(model, norm, 0.101, steps=50, step_size=0.03).run(image, label)
    assert result.success
    moved = (result.adversarials - image).flatten().norm(p=order).item()
    assert 0.1 <= moved <= 0.101 + 1e-6
