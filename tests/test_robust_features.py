"""The attackers that search for each image, the encoder that resists them, and the margin head."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from conftest import SMALL, run_command

from funn.checkpoint import load
from funn.classifier import HeadTraining
from funn.data import TensorBatches
from funn.errors import UserError
from funn.fitting import fit
from funn.networks import DenseAutoEncoder, Head
from funn.objectives import constrained
from funn.robust_features import LearnedAttacker, RobustTraining, one_cycle
from funn.sample_attacker import Ball, climb_pixels, read_balls, search
from funn.schema import TrainerConfig
from funn.seeding import generator
from funn.stages import Fit

CPU = TrainerConfig(accelerator="cpu", devices=1)
OBJECTIVE = partial(constrained, beta=0.01, gamma=5.0)
IMAGES = torch.rand(30, 1, 8, 8, generator=generator("images"))


def away(images, clean):
    """Climbed by going as far from the clean images as it gets."""
    return (images - clean).square().flatten(1).sum(1)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 0.1), ("l0", 7)])
def test_a_search_ends_on_the_border_of_its_ball(norm, eps):
    middle = 0.25 + IMAGES / 2
    found = search(away, middle, [Ball(norm, eps, 10)], generator("starts"))
    moved = (found - middle).flatten(1)
    size = {"l2": moved.norm(dim=1), "linf": moved.abs().amax(1), "l0": (moved != 0).sum(1)}[norm]
    assert torch.allclose(size.float(), torch.tensor(float(eps)), rtol=1e-4)
    assert found.min() >= 0
    assert found.max() <= 1


def test_each_image_of_a_batch_takes_its_ball_in_turn():
    balls = [Ball("linf", 0.1, 3), Ball("l2", 0.5, 3), Ball("l0", 4, 2)]
    moved = (search(away, IMAGES, balls, generator("starts")) - IMAGES).flatten(1)
    assert (moved[0::3].abs().amax(1) <= 0.1 + 1e-6).all()
    assert (moved[1::3].norm(dim=1) <= 0.5 + 1e-6).all()
    assert ((moved[2::3] != 0).sum(1) <= 4).all()
    assert (moved[2::3].abs().amax(1) > 0.1).all()


def test_the_pixels_that_gain_most_are_set():
    weights = torch.tensor([[[[3.0, -2.0, 1.0, 0.5]]]])
    image = torch.tensor([[[[0.9, 0.9, 0.2, 0.5]]]])  # gains 0.3, 1.8, 0.8, 0.25
    found = climb_pixels(lambda x: (weights * x).sum((1, 2, 3)), image, pixels=2, steps=1)
    assert torch.equal(found, torch.tensor([[[[0.9, 0.0, 1.0, 0.5]]]]))


def test_impossible_balls():
    with pytest.raises(UserError, match="norm=l3 must be l2, linf or l0"):
        read_balls([{"norm": "l3", "eps": 1, "steps": 1}])
    with pytest.raises(UserError, match="eps=0 must be above 0"):
        read_balls([{"norm": "l2", "eps": 0, "steps": 1}])


@pytest.mark.parametrize("reconstructs", [False, True])
def test_the_encoder_learns_to_resist(tmp_path, reconstructs):
    """The worst distance falls, the generator and the target stay, clean features stay close."""
    torch.manual_seed(0)
    defender = DenseAutoEncoder((1, 8, 8), [4, 8], 6)
    before = {name: value.clone() for name, value in defender.state_dict().items()}
    module = RobustTraining(
        ({}, defender), balls=[Ball("l2", 1.0, 3)], reconstructs=reconstructs, clean_weight=1.0,
        lr=1e-2, seed=0, probe=IMAGES, log_every=1,
    )  # fmt: skip
    first = module.epoch_extras()["worst_distance"]
    fit(Fit(module, TensorBatches(IMAGES, torch.zeros(30), 10, 0), 10), tmp_path, CPU, [], "test")
    moved = {name for name, value in defender.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all(name.startswith("encoder") for name in moved)
    assert all(
        torch.equal(value, before[f"encoder.{name}"])
        for name, value in module.target.state_dict().items()
    )
    if not reconstructs:
        assert module.epoch_extras()["worst_distance"] < 0.8 * first


def test_the_papers_attacker_plays_on_beside_the_searches(tmp_path):
    """Its generator learns (Eq. 8), its encoder does not; it takes the last share of a batch."""
    torch.manual_seed(0)
    defender = DenseAutoEncoder((1, 8, 8), [4, 8], 6)
    a1 = DenseAutoEncoder((1, 8, 8), [4, 8], 6, noise=2)
    before = {name: value.clone() for name, value in a1.state_dict().items()}
    module = RobustTraining(
        ({}, defender), learned=LearnedAttacker({}, a1, OBJECTIVE, False, 1e-2),
        balls=[Ball("l2", 1.0, 3)], reconstructs=False, clean_weight=1.0, lr=1e-2, seed=0,
        probe=IMAGES, log_every=1,
    )  # fmt: skip
    attacked = module.attack(module.distance, IMAGES, generator("once"))
    moved = (attacked - IMAGES).flatten(1).norm(dim=1)
    assert (moved[0::2] <= 1 + 1e-6).all()
    assert (moved[1::2] > 1.5).all()  # an untrained A1 makes grey images
    batches = TensorBatches(IMAGES, torch.zeros(30), 10, 0)
    first = module.learned.loss(IMAGES, defender, generator("once"))
    fit(Fit(module, batches, 10), tmp_path, CPU, [], "test")
    assert module.learned.loss(IMAGES, defender, generator("once")) < first
    names = {name for name, value in a1.state_dict().items() if not value.equal(before[name])}
    assert names
    assert all(name.startswith("generator") for name in names)


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [one_cycle(place / 100, 2.0) for place in range(101)]
    assert max(rates) == pytest.approx(2.0, rel=0.04)
    assert rates[0] == pytest.approx(0.08)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_margin_head_learns_from_features_nearer_to_a_mistake():
    torch.manual_seed(0)
    head = Head(6, 3, [8])
    module = HeadTraining(head, ({}, head), lr=1e-3, margin=0.1, log_every=1)
    features, labels = torch.randn(20, 6), torch.randint(3, (20,))
    moved = module.moved(features, labels)
    assert torch.allclose((moved - features).norm(dim=1), torch.tensor(0.1), rtol=1e-4)
    assert not moved.requires_grad
    losses = [F.cross_entropy(head(each), labels, reduction="none") for each in (features, moved)]
    assert (losses[1] > losses[0]).all()


@pytest.mark.slow
def test_no_label_reaches_the_encoder(tmp_path):
    """With permuted labels the encoder ends with the same bits; the head does not."""
    found = []
    for name in ("SyntheticDigits", "PermutedDigits"):
        (tmp_path / "permuted.py").write_text(
            "from funn.synthetic import SyntheticDigits\n"
            "class PermutedDigits(SyntheticDigits):\n"
            "    def load(self):\n"
            "        train, test = super().load()\n"
            "        return train._replace(labels=train.labels.roll(1)), test\n"
        )
        module = "funn.synthetic" if name == "SyntheticDigits" else "permuted"
        done = run_command(
            "train.py", "defense=funn_pgd", "head=margin", *SMALL, f"output_dir={tmp_path}/{name}",
            f"data._target_={module}.{name}", PYTHONPATH=str(tmp_path),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        run = tmp_path / name / "latest/funn_pgd/classifier/model.ckpt"
        found.append(load(run)["classifier"].module.state_dict())
    same = {key for key, value in found[0].items() if value.equal(found[1][key])}
    assert {key for key in found[0] if key.startswith("encoder")} <= same
    assert not any(key.startswith("head") for key in same)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("defense=funn_pgd attacker=network", "attacker=pgd_feature"),
        ("defense=adversarial_training head=margin", "add classifier.margin=0"),
    ],
)
def test_what_a_defence_does_not_do_is_refused(tmp_path, typed, says):
    done = run_command("train.py", *typed.split(), *SMALL, f"output_dir={tmp_path}")
    assert done.returncode != 0
    assert says in done.stderr.splitlines()[-1]
    assert not (tmp_path / "train").exists()  # before the init stage is trained
