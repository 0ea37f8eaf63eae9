"""The attackers that search for each image, the encoder that resists them, and the margin head."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from conftest import SMALL, run_command
from lightning.pytorch import Callback
from test_compose import read

from benchmarks.plain_loops import eager_contrast
from funn.config.build import build_module
from funn.config.schema import TrainConfig, TrainerConfig
from funn.data.batches import TensorBatches
from funn.data.synthetic import SyntheticDigits
from funn.defenses.funn_pgd.attacker import Ball, climb_pixels, read_balls, search
from funn.defenses.funn_pgd.info_nce import Contrast, Views, most_alike
from funn.defenses.funn_pgd.objectives import Features, Reconstruction
from funn.defenses.funn_pgd.training import EncoderTraining, LearnedAttacker, one_cycle
from funn.errors import UserError
from funn.fast_layers import use_fast_layers
from funn.method.classifier import ClassifierStage, HeadTraining
from funn.method.features import spread
from funn.method.networks import DenseAutoEncoder, Head
from funn.method.objectives import AttackerLoss, DualAscent, constrained
from funn.runtime.seeding import generator
from funn.training.checkpoint import Saved, load, save
from funn.training.fit import fit
from funn.training.module import adam
from funn.training.stage import Fit

CPU = TrainerConfig(accelerator="cpu", devices=1)
OBJECTIVE = partial(constrained, beta=0.01, gamma=5.0)
IMAGES = torch.rand(30, 1, 8, 8, generator=generator("images"))
PLACES = torch.arange(30)
VIEWS = Views(rotation=15, shift=1, scale=0.1)


def away(images, clean):
    """Climbed by going as far from the clean images as it gets."""
    return (images - clean).square().flatten(1).sum(1)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 0.1), ("l0", 7)])
def test_a_search_ends_on_the_border_of_its_ball(norm, eps):
    middle = 0.25 + IMAGES / 2
    found = search(away, middle, middle, [Ball(norm, eps, 10)], generator("starts"))
    moved = (found - middle).flatten(1)
    size = {"l2": moved.norm(dim=1), "linf": moved.abs().amax(1), "l0": (moved != 0).sum(1)}[norm]
    assert torch.allclose(size.float(), torch.tensor(float(eps)), rtol=1e-4)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("plain", [False, True])
def test_contrast_equals_the_loop_written_by_hand(tmp_path, plain):
    """To rounding, with the same layers and optimiser and with torch's own."""
    images = torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8, generator=generator("bytes"))
    options = {"views": VIEWS, "temperature": 0.2, "neighbours": 3}

    def start():
        torch.manual_seed(0)
        return (
            DenseAutoEncoder((1, 8, 8), [4, 8], 6),
            TensorBatches(images, torch.arange(48), 12, 7),
        )

    ours, batches = start()
    module = EncoderTraining(
        Saved({}, ours), aim=Contrast(images, **options), balls=[Ball("l2", 0.5, 3)],
        clean_weight=0, lr=1e-2, seed=7, probe=torch.zeros(2, 1, 8, 8),
    )  # fmt: skip
    fit(Fit(module, batches, 1), tmp_path, CPU, [], "test")
    theirs, batches = start()
    if not plain:
        use_fast_layers(theirs)
    batches.set_epoch(0)
    eager_contrast(
        theirs.encoder, images, batches, eps=0.5, steps=3, lr=1e-2, seed=7,
        optimizer=torch.optim.Adam if plain else adam, **options,
    )  # fmt: skip
    before = start()[0].encoder.state_dict()
    for name, value in theirs.encoder.state_dict().items():
        assert not torch.equal(value, before[name])
        torch.testing.assert_close(ours.encoder.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_each_image_of_a_batch_takes_its_ball_in_turn():
    balls = [Ball("linf", 0.1, 3), Ball("l2", 0.5, 3), Ball("l0", 4, 2)]
    moved = (search(away, IMAGES, IMAGES, balls, generator("starts")) - IMAGES).flatten(1)
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


@pytest.mark.parametrize("name", ["feature", "reconstruction", "contrast"])
def test_the_encoder_learns_to_resist(tmp_path, name):
    """The worst distance falls, and nothing but the encoder moves."""
    torch.manual_seed(0)
    # Grey noise is too much alike for a contrast.
    images = (IMAGES > 0.85).float() if name == "contrast" else IMAGES
    defender = DenseAutoEncoder((1, 8, 8), [8, 16], 16)
    before = {name: value.clone() for name, value in defender.state_dict().items()}
    aim = {
        "feature": Features(defender.encoder),
        "reconstruction": Reconstruction(),
        "contrast": Contrast(images, VIEWS, temperature=0.2, neighbours=0),
    }[name]
    kept = copy.deepcopy(aim.state_dict())
    eps, lr, epochs = (0.2, 3e-3, 60) if name == "contrast" else (1.0, 1e-2, 10)
    module = EncoderTraining(
        Saved({}, defender), aim=aim, balls=[Ball("l2", eps, 3)], clean_weight=1.0, lr=lr, seed=0,
        probe=images
    )  # fmt: skip
    first = worst(module, images)
    fit(Fit(module, TensorBatches(images, PLACES, 10, 0), epochs), tmp_path, CPU, [], "test")
    moved = {name for name, value in defender.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all(name.startswith("encoder") for name in moved)
    assert all(torch.equal(value, kept[key]) for key, value in aim.state_dict().items())
    # Through an untrained and frozen generator little can be restored.
    assert worst(module, images) < (1.0 if name == "reconstruction" else 0.8) * first


def worst(module, images):
    """How far off the encoder is on attacked images, by the aim itself."""
    contest = module.aim.contest(module.defender, images, PLACES, generator("views"))
    attacked = module.attack(contest, generator("once"))
    return float(contest.distance(attacked, contest.goals).mean().detach())


def test_views_are_turned_shifted_and_scaled_within_their_bounds():
    """A bright dot lands where the drawn turn, size and shift put it; no change is no view."""
    image = torch.zeros(200, 1, 29, 29)
    image[:, :, 14, 22] = 1  # 8 pixels right of the middle
    assert torch.allclose(Views(0, 0, 0).draw(image, generator("views")), image, atol=1e-5)
    rows, columns = torch.meshgrid(torch.arange(29.0) - 14, torch.arange(29.0) - 14, indexing="ij")
    for views, radius, angle, shift in (
        (Views(15, 0, 0), 0, 15, 0), (Views(0, 2, 0), 0, 0, 2), (Views(0, 0, 0.1), 0.9, 0, 0),
    ):  # fmt: skip
        drawn = views.draw(image, generator("views"))[:, 0]
        mass = drawn.sum((1, 2))
        down, right = (drawn * rows).sum((1, 2)) / mass, (drawn * columns).sum((1, 2)) / mass
        if shift:
            assert shift - 0.2 < (right - 8).abs().max() <= shift + 1e-3
            assert shift - 0.2 < down.abs().max() <= shift + 1e-3
        else:
            turned = torch.atan2(down, right).abs().rad2deg().max()
            assert angle - 1.5 < turned <= angle + 0.5 if angle else turned < 1e-2
            changed = (torch.hypot(down, right) - 8).abs().max()
            assert radius - 0.2 < changed <= radius + 0.05 if radius else changed < 0.1


def test_the_other_view_is_of_the_nearest_images():
    """Features on three rays: each image's mates are those of its own ray."""
    rays = torch.eye(3).repeat_interleave(4, 0) + 0.1 * torch.rand(12, 3, generator=generator("e"))
    mates = most_alike(rays, 3, rows=5)
    assert torch.equal(mates[:, 0], torch.arange(12))
    assert torch.equal(mates.sort(1).values, (torch.arange(12) // 4 * 4)[:, None] + torch.arange(4))
    aim = Contrast(IMAGES, Views(0, 0, 0), temperature=1.0, neighbours=1)
    defender = DenseAutoEncoder((1, 8, 8), [4, 8], 6)
    aim.begin_epoch(defender.encoder)
    assert torch.equal(aim.alike, most_alike(defender.encoder(IMAGES).detach(), 1))
    with pytest.raises(UserError, match="neighbours=30 must be less than the 30 images"):
        Contrast(IMAGES, VIEWS, temperature=1.0, neighbours=30)
    # Where all have the same mate, no view is nearer to its own goal than to another: ln N.
    aim.alike = torch.full((30, 1), 7)
    contest = aim.contest(defender, IMAGES[:5], PLACES[:5], generator("mates"))
    assert torch.equal(contest.goals, torch.arange(5))
    found = contest.distance(IMAGES[:5], contest.goals)
    assert torch.allclose(found, torch.tensor(5.0).log().expand(5), atol=1e-5)
    # Where each has another's, it is near that one, which stands in its own place of the batch.
    aim.alike = (torch.arange(30)[:, None] + 1) % 30
    contest = aim.contest(defender, IMAGES[:5], PLACES[5:10], generator("mates"))
    assert torch.allclose(
        contest.distance(IMAGES[6:11], contest.goals),
        Contrast(IMAGES, Views(0, 0, 0), temperature=1.0, neighbours=0)
        .contest(defender, IMAGES[6:11], PLACES[6:11], generator("mates"))
        .distance(IMAGES[6:11], contest.goals),
        atol=1e-5,
    )


def test_the_contrast_is_the_cross_entropy_of_the_right_one():
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
    defender = DenseAutoEncoder((1, 8, 8), [4, 8], 6)
    defender.encoder = encoder
    aim = Contrast(IMAGES, Views(0, 0, 0), temperature=0.5, neighbours=0)
    contest = aim.contest(defender, IMAGES[:2], PLACES[:2], generator("views"))
    a, b = F.normalize(encoder(IMAGES[:2]), dim=1)
    cosine = float((a @ b).detach())
    expected = torch.tensor(1 / 0.5).exp().add(torch.tensor(cosine / 0.5).exp()).log() - 1 / 0.5
    found = contest.distance(IMAGES[:2], contest.goals)
    assert torch.allclose(found, expected.expand(2), atol=1e-4)


def test_the_papers_attacker_plays_on_beside_the_searches(tmp_path):
    """Its generator learns (Eq. 8), its encoder does not; it takes the last share of a batch."""
    torch.manual_seed(0)
    defender = DenseAutoEncoder((1, 8, 8), [4, 8], 6)
    a1 = DenseAutoEncoder((1, 8, 8), [4, 8], 6, noise=2)
    before = {name: value.clone() for name, value in a1.state_dict().items()}
    module = EncoderTraining(
        Saved({}, defender), learned=LearnedAttacker(Saved({}, a1), AttackerLoss(OBJECTIVE), 1e-2),
        aim=Features(defender.encoder), balls=[Ball("l2", 1.0, 3)], clean_weight=1.0, lr=1e-2,
        seed=0, probe=IMAGES
    )  # fmt: skip
    contest = module.aim.contest(defender, IMAGES, PLACES, generator("once"))
    attacked = module.attack(contest, generator("once"))
    moved = (attacked - IMAGES).flatten(1).norm(dim=1)
    assert (moved[0::2] <= 1 + 1e-6).all()
    assert (moved[1::2] > 1.5).all()  # an untrained A1 makes grey images
    batches = TensorBatches(IMAGES, PLACES, 10, 0)
    first = module.learned.loss(IMAGES, defender, generator("once"))
    fit(Fit(module, batches, 10), tmp_path, CPU, [], "test")
    assert module.learned.loss(IMAGES, defender, generator("once")) < first
    names = {name for name, value in a1.state_dict().items() if not value.equal(before[name])}
    assert names
    assert all(name.startswith("generator") for name in names)


class Killed(Callback):
    """An error at the start of an epoch."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 2:
            raise RuntimeError("killed")


def test_a_resumed_training_ends_with_the_same_bits(tmp_path):
    """With neighbours found anew in each epoch, and an A1 whose gamma follows the constraint."""

    def train(folder, callbacks=()):
        torch.manual_seed(0)
        defender = DenseAutoEncoder((1, 8, 8), [4, 8], 6)
        a1 = DenseAutoEncoder((1, 8, 8), [4, 8], 6, noise=2)
        dual = DualAscent(beta=0.01, gamma=5.0, rate=10.0)
        module = EncoderTraining(
            Saved({}, defender), aim=Contrast(IMAGES, VIEWS, temperature=0.2, neighbours=1),
            learned=LearnedAttacker(Saved({}, a1), AttackerLoss(dual), 1e-2),
            balls=[Ball("l2", 0.2, 2)], clean_weight=0.0, lr=1e-3, seed=0, probe=IMAGES
        )  # fmt: skip
        batches = TensorBatches(IMAGES, PLACES, 10, 0)
        fit(Fit(module, batches, 4, callbacks), folder, CPU, [], "test")
        return torch.nn.ModuleDict({"d": defender, "a1": a1, "dual": dual}).state_dict()

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "killed", [Killed()])
    resumed = train(tmp_path / "killed")
    assert whole["dual.gamma"] != 5
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [one_cycle(place / 100, 2.0) for place in range(101)]
    assert max(rates) == pytest.approx(2.0, rel=0.04)
    assert rates[0] == pytest.approx(0.08)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_margin_head_learns_from_features_nearer_to_a_mistake():
    torch.manual_seed(0)
    head = Head(6, 3, [8])
    module = HeadTraining(head, Saved({}, head), lr=1e-3, margin=0.1)
    features, labels = torch.randn(20, 6), torch.randint(3, (20,))
    moved = module.moved(features, labels)
    assert torch.allclose((moved - features).norm(dim=1), torch.tensor(0.1), rtol=1e-4)
    assert not moved.requires_grad
    losses = [F.cross_entropy(head(each), labels, reduction="none") for each in (features, moved)]
    assert (losses[1] > losses[0]).all()


def test_the_unit_of_a_margin_is_the_spread_of_the_features():
    corners = 7 + 3 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert spread(corners) == pytest.approx(3 * 2**0.5)


def test_the_head_is_moved_by_a_share_of_the_spread_of_its_own_features(tmp_path):
    """An encoder whose features are ten times as large is given a margin ten times as large."""
    config = read("train", TrainConfig, "head=margin")
    margins = []
    for name, factor in (("small", 1), ("large", 10)):
        torch.manual_seed(0)
        spec = {**config.model, "image_shape": [1, 28, 28], "noise": 0}
        defender = build_module(spec)
        last = defender.encoder[-1]
        with torch.no_grad():
            last.weight *= factor
            last.bias *= factor
        save(tmp_path / name, {"defender": (spec, defender)})
        data = SyntheticDigits(tmp_path, 200, 10)
        trained = ClassifierStage().prepare(config, data, tmp_path / name, tmp_path)
        margins.append(trained.module.margin)
        assert margins[-1] == pytest.approx(0.2 * spread(trained.batches.inputs))
    assert margins[1] == pytest.approx(10 * margins[0], rel=1e-5)


@pytest.mark.slow
def test_no_label_reaches_the_encoder(tmp_path):
    """With permuted labels the encoder ends with the same bits; the head does not."""
    found = []
    for name in ("SyntheticDigits", "PermutedDigits"):
        (tmp_path / "permuted.py").write_text(
            "from funn.data.synthetic import SyntheticDigits\n"
            "class PermutedDigits(SyntheticDigits):\n"
            "    def load(self):\n"
            "        train, test = super().load()\n"
            "        return train._replace(labels=train.labels.roll(1)), test\n"
        )
        module = "funn.data.synthetic" if name == "SyntheticDigits" else "permuted"
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
        ("defense=funn_pgd attacker=network", "attacker=pgd_contrast"),
        (
            "defense=funn_pgd attacker=mixed attacker.distance=contrast",
            "type attacker=pgd_contrast",
        ),
        (
            "defense=funn_pgd attacker=pgd_contrast attacker.contrast.temperature=0",
            "attacker.contrast.temperature=0 must be above 0",
        ),
        ("defense=adversarial_training head=margin", "add classifier.margin=0"),
    ],
)
def test_what_a_defence_does_not_do_is_refused(tmp_path, typed, says):
    done = run_command("train.py", *typed.split(), *SMALL, f"output_dir={tmp_path}")
    assert done.returncode != 0
    assert says in done.stderr.splitlines()[-1]
    assert not (tmp_path / "train").exists()  # before the init stage is trained
