"""What every attack keeps to: one row for each, one test for each promise."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra import initialize_config_dir
from torch import nn

import funn.attacks
from funn.attacks import (
    APGD,
    BIM,
    DDN,
    FAB,
    FGSM,
    FMN,
    PGD,
    AutoAttack,
    BatchedAttack,
    DeepFool,
    DetectorAware,
    FeaturePGD,
    Gradient,
    LocalSearch,
    SigmaZero,
    SinglePixel,
    Square,
)  # fmt: skip
from funn.config.build import build
from funn.config.compose import declared_attacks
from funn.evaluation.records.verification import margins
from funn.evaluation.trials.run_attack import counted


class Row(NamedTuple):
    name: str
    make: Callable[[nn.Module], BatchedAttack]
    norm: float = math.inf
    budget: float = 1.0
    gradients: bool = True
    random_start: bool = False


def watch(model: nn.Module) -> nn.Module:
    """Give any model a detector that rejects nothing."""
    model.thresholds = torch.tensor([2.0])  # type: ignore[assignment]
    model.scores = lambda x: x.flatten(1).mean(1, keepdim=True)  # type: ignore[assignment]
    model.rejects = lambda x: x.flatten(1).mean(1) > 2  # type: ignore[assignment]
    return model


def shown(model: nn.Module) -> nn.Module:
    """Give any model an encoder: the first of its layers."""
    model.__dict__["encoder"] = next(model.children(), model)
    return model


ROWS = [
    Row("fgsm", lambda model: FGSM(model, 0.1), math.inf, 0.1),
    Row("fgsm-foolbox1", lambda model: FGSM(model, 0.1, "foolbox1"), math.inf, 0.1),
    Row("gradient", lambda model: Gradient(model, 0.5), 2, 0.5),
    Row("gradient-foolbox1", lambda model: Gradient(model, 0.1, "foolbox1"), 2, 0.1 * 8),
    Row("bim", lambda model: BIM(model, 0.1, 0.02), math.inf, 0.1),
    Row("bim-foolbox1", lambda model: BIM(model, 0.1, steps=4, protocol="foolbox1"), math.inf, 0.1),
    Row("pgd_l2", lambda model: PGD(model, "l2", 0.5, 5, restarts=2), 2, 0.5, random_start=True),
    Row("pgd_linf", lambda model: PGD(model, "linf", 0.1, 5), random_start=True, budget=0.1),
    Row(
        "detector_aware",
        lambda model: DetectorAware(watch(model), "l2", 0.5, 5),
        2,
        0.5,
        random_start=True,
    ),
    Row(
        "feature_pgd_l2",
        lambda model: FeaturePGD(shown(model), "l2", 0.5, 5),
        2,
        0.5,
        random_start=True,
    ),
    Row("apgd_ce_l2", lambda model: APGD(model, "l2", 0.3, 20), 2, 0.3, random_start=True),
    Row(
        "apgd_ce_linf", lambda model: APGD(model, "linf", 0.05, 20), budget=0.05, random_start=True
    ),
    Row(
        "apgd_t_l2",
        lambda model: APGD(model, "l2", 0.3, 10, "dlr_targeted"),
        2,
        0.3,
        random_start=True,
    ),
    Row(
        "apgd_t_linf",
        lambda model: APGD(model, "linf", 0.05, 10, "dlr_targeted"),
        budget=0.05,
        random_start=True,
    ),
    Row("fab_t_l2", lambda model: FAB(model, "l2", 0.3, 10), 2, 0.3),
    Row("fab_t_linf", lambda model: FAB(model, "linf", 0.05, 10), budget=0.05),
    Row("square_l2", lambda model: Square(model, "l2", 0.5, 60), 2, 0.5, gradients=False),
    Row("square_linf", lambda model: Square(model, "linf", 0.1, 60), budget=0.1, gradients=False),
    Row(
        "autoattack_l2",
        lambda model: AutoAttack(model, "l2", 0.3, steps=5, targets=3, queries=20),
        2,
        0.3,
        random_start=True,
    ),
    Row(
        "autoattack_linf",
        lambda model: AutoAttack(model, "linf", 0.05, steps=5, targets=3, queries=20),
        budget=0.05,
        random_start=True,
    ),
    Row("deepfool_l2", lambda model: DeepFool(model, "l2")),
    Row("deepfool_linf", lambda model: DeepFool(model, "linf")),
    Row("deepfool_l2-foolbox1", lambda model: DeepFool(model, "l2", protocol="foolbox1")),
    Row("deepfool_linf-foolbox1", lambda model: DeepFool(model, "linf", protocol="foolbox1")),
    Row("ddn", lambda model: DDN(model, 20), 2, 8),
    Row("ddn-levels", lambda model: DDN(model, 20, levels=256), 2, 8),
    Row("fmn_l2", lambda model: FMN(model, "l2", 20), 2, 8),
    Row("fmn_linf", lambda model: FMN(model, "linf", 20)),
    Row("fmn_l1", lambda model: FMN(model, "l1", 20), 1, 64),
    Row("fmn_l0", lambda model: FMN(model, "l0", 20), 0, 64),
    Row("sigma_zero", lambda model: SigmaZero(model, 50), 0, 64),
    Row("single_pixel", lambda model: SinglePixel(model), 0, 1, gradients=False),
    Row("local_search", lambda model: LocalSearch(model, R=6, t=2, d=2), 0, 12, gradients=False),
    Row(
        "local_search-foolbox1",
        lambda model: LocalSearch(model, R=6, t=2, d=2, protocol="foolbox1"),
        0,
        12,
        gradients=False,
    ),
]
every_attack = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
# As torchattacks' users call an attack, and as an evaluation does.
each_way = pytest.mark.parametrize(
    "attack_by", [lambda attack: attack, lambda attack: attack.run], ids=["call", "run"]
)


class Network(nn.Module):
    """Two layers with dropout, whose mode and gradients an attack could spoil."""

    def __init__(self, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Linear(math.prod(shape), 16)
            self.last = nn.Linear(16, classes)
        self.dropout = nn.Dropout(0.5)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(torch.tanh(3 * self.first(x.flatten(1)))))


class Watched(Network):
    """With a detector of large images, and an encoder."""

    thresholds = torch.tensor([0.6])

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self.first

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).mean(1, keepdim=True)

    def rejects(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scores(x) >= self.thresholds).any(1)


class Dead(nn.Module):
    """Logits that prefer class 0 and do not change, through a gradient of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.scale * x.flatten(1)[:, :3]
        return logits + torch.tensor([1.0, 0.0, 0.0])


def draw(model: nn.Module, count: int = 6, shape: tuple[int, int, int] = (1, 8, 8)) -> Any:
    """Images that leave room on both sides, and the model's predictions of them."""
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    return images, model(images).argmax(1).detach()


def assert_same(result: Any, other: Any, rows: Any = slice(None)) -> None:
    torch.testing.assert_close(result.adversarials[rows], other.adversarials, atol=1e-5, rtol=0)
    for field in ("success", "step", "forwards", "backwards"):
        assert torch.equal(getattr(result, field)[rows], getattr(other, field)), field


def test_the_table_has_every_attack() -> None:
    exported = {value for value in vars(funn.attacks).values() if isinstance(value, type)}
    attacks = {kind for kind in exported if issubclass(kind, BatchedAttack)} - {BatchedAttack}
    assert {type(row.make(Network())) for row in ROWS} == attacks


@every_attack
def test_stays_in_the_box_and_the_budget(row: Row) -> None:
    model = Network()
    images, labels = draw(model, 20)
    before = images.clone()
    result = row.make(model).run(images, labels)
    adversarials = result.adversarials
    assert torch.equal(images, before)
    assert adversarials.shape == images.shape
    assert adversarials.dtype == torch.float32
    assert not adversarials.requires_grad
    assert ((adversarials >= 0) & (adversarials <= 1)).all()
    size = (adversarials - images).flatten(1).norm(p=row.norm, dim=1)
    assert (size <= row.budget + 1e-5).all()
    assert result.success.any()
    assert torch.equal(result.step >= 0, result.success)


@every_attack
def test_success_is_a_wrong_prediction(row: Row) -> None:
    model = Network()
    images, labels = draw(model, 20)
    result = row.make(model).run(images, labels)
    margin = margins(model(result.adversarials), labels)
    # The prediction was made in another batch.
    assert (margin[result.success] < 1e-5).all()
    assert (margin[~result.success] > -1e-5).all()


@every_attack
def test_another_batch_size_changes_nothing(row: Row) -> None:
    model = Network()
    images, labels = draw(model)
    attack, other = row.make(model), row.make(model)
    other.batch_size = 2
    assert_same(attack.run(images, labels), other.run(images, labels))


@every_attack
def test_another_order_and_number_of_images_change_nothing(row: Row) -> None:
    model = Network()
    images, labels = draw(model)
    labels[2] = (labels[2] + 1) % 10  # one that is wrong from the start
    rows = torch.tensor([3, 2, 0, 5])
    attack = row.make(model)
    assert_same(attack.run(images, labels), attack.run(images[rows], labels[rows]), rows)


@every_attack
def test_forward_passes_are_all_counted(row: Row) -> None:
    model = Network()
    images, labels = draw(model)
    with counted(model) as passes:
        result = row.make(model).run(images, labels)
    assert result.forwards.sum() == passes.forward
    assert bool(result.backwards.any()) == row.gradients


@every_attack
def test_what_is_wrong_from_the_start_stays(row: Row) -> None:
    model = Network()
    images, labels = draw(model)
    result = row.make(model).run(images, (labels + 1) % 10)
    assert torch.equal(result.adversarials, images)
    assert result.success.all()
    assert (result.step == 0).all()
    assert (result.forwards == 1).all()
    assert (result.backwards == 0).all()


@every_attack
def test_empty_batch(row: Row) -> None:
    result = row.make(Network()).run(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    assert result.adversarials.shape == (0, 1, 8, 8)
    for field in ("success", "step", "forwards", "backwards"):
        assert getattr(result, field).shape == (0,)


@every_attack
@pytest.mark.parametrize(("shape", "classes"), [((3, 8, 6), 10), ((1, 8, 8), 2), ((1, 8, 8), 1000)])
def test_other_shapes_and_numbers_of_classes(
    row: Row, shape: tuple[int, int, int], classes: int
) -> None:
    model = Network(shape, classes)
    images, labels = draw(model, 4, shape)
    result = row.make(model).run(images, labels)
    assert result.adversarials.shape == images.shape
    wrong = margins(model(result.adversarials), labels) < 1e-5
    assert torch.equal(wrong, result.success)


@every_attack
@each_way
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(row: Row, attack_by: Any, fails: bool) -> None:
    model = Network()
    images, labels = draw(model)
    model.train()
    model.first.eval()
    model.last.bias.requires_grad_(False)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    state = torch.get_rng_state()
    calls = []

    def hook(module: nn.Module, inputs: Any) -> None:
        calls.append(any(part.training for part in module.modules()))
        assert not any(parameter.requires_grad for parameter in module.parameters())
        torch.rand(1)  # a model that draws, even in eval mode
        if fails and len(calls) == 2:
            raise RuntimeError("broken")

    model.register_forward_pre_hook(hook)
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            attack_by(row.make(model))(images, labels)
    else:
        attack_by(row.make(model))(images, labels)
    assert calls
    assert not any(calls)
    assert model.training
    assert model.dropout.training
    assert not model.first.training
    assert not model.last.bias.requires_grad
    assert model.last.weight.requires_grad
    assert torch.equal(model.first.weight.grad, torch.ones_like(model.first.weight))
    assert model.last.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


@every_attack
@each_way
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients_around_it(row: Row, attack_by: Any, mode: Any) -> None:
    model = Network()
    images, labels = draw(model)
    expected = row.make(model)(images, labels)
    with mode():
        inside = attack_by(row.make(model))(images.clone(), labels.clone())
    assert torch.equal(getattr(inside, "adversarials", inside), expected)


def test_logits_may_be_asked_for_in_inference_mode() -> None:
    attack = FGSM(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with torch.inference_mode():
        assert attack.get_logits(torch.rand(2, 1, 4, 4)).shape == (2, 3)


@every_attack
def test_normalised_inputs_as_torchattacks_knows_them(row: Row) -> None:
    model = Network()
    images, labels = draw(model)
    expected = row.make(model)(images, labels)

    class Normalised(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * 0.25 + 0.5)

    attack = row.make(Normalised())
    attack.set_normalization_used(mean=[0.5], std=[0.25])
    given = attack((images - 0.5) / 0.25, labels) * 0.25 + 0.5
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)


@every_attack
def test_zero_gradients_and_constant_images(row: Row) -> None:
    """Nothing to follow: a failure, in the box, with no NaN."""
    images = torch.stack([torch.full((1, 8, 8), value) for value in (0.0, 0.5, 1.0)])
    result = row.make(Dead()).run(images, torch.zeros(3, dtype=torch.int64))
    assert not result.success.any()
    assert (result.step == -1).all()
    assert ((result.adversarials >= 0) & (result.adversarials <= 1)).all()
    if row.gradients and not row.random_start:
        assert torch.equal(result.adversarials, images)


@every_attack
def test_tied_logits_count_for_the_first(row: Row) -> None:
    class Tied(Dead):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * x.flatten(1)[:, :3]

    images = torch.full((2, 1, 8, 8), 0.5)
    result = row.make(Tied()).run(images, torch.tensor([0, 1]))
    assert result.success.tolist() == [False, True]
    assert result.step.tolist() == [-1, 0]


@every_attack
def test_gradients_that_are_not_finite_move_nothing(row: Row) -> None:
    class Broken(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # The slope of the root is infinite at 0, that of the product is zero: NaN.
            return super().forward(x) + (0 * x.flatten(1)[:, :1]).sqrt()

    model = Broken()
    images, labels = draw(model)
    result = row.make(model).run(images, labels)
    assert result.adversarials.isfinite().all()
    if row.gradients and not row.random_start:
        assert not result.success.any()
        assert torch.equal(result.adversarials, images)


@every_attack
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_logits_that_are_not_finite_are_no_success(
    row: Row, value: float, everywhere: bool
) -> None:
    class Broken(Network):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            fine = (x == 0.5).flatten(1).all(1) & (not everywhere)
            column = torch.where(fine, 0.0, value)[:, None].expand(-1, 10)
            return super().forward(x) + column * torch.eye(10)[9]  # not only at the label

    images = torch.full((2, 1, 8, 8), 0.5)
    labels = Network()(images).argmax(1)
    assert (labels != 9).all()
    result = row.make(Broken()).run(images, labels)
    assert not result.success.any()
    assert (result.step == -1).all()
    assert result.adversarials.isfinite().all()


@every_attack
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.full((2, 1, 8, 8), 1.5), torch.zeros(2, dtype=torch.int64)),
        (torch.full((2, 1, 8, 8), -0.5), torch.zeros(2, dtype=torch.int64)),
        (torch.full((2, 1, 8, 8), math.nan), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 64), torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_wrong_inputs_are_refused(row: Row, images: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images must"):
        row.make(Network()).run(images, labels)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (FGSM, {"eps": -1}),
        (FGSM, {"eps": math.nan}),
        (FGSM, {"protocol": "foolbox"}),
        (Gradient, {"eps": -1}),
        (Gradient, {"eps": 1, "protocol": "foolbox"}),
        (BIM, {"eps": -1}),
        (BIM, {"alpha": -1}),
        (BIM, {"steps": 0}),
        (BIM, {"protocol": "foolbox1", "alpha": 0.001}),
        (BIM, {"protocol": "foolbox"}),
        (APGD, {"norm": "l1"}),
        (APGD, {"loss": "dlr"}),
        (APGD, {"eps": -1}),
        (APGD, {"steps": 0}),
        (APGD, {"targets": 0}),
        (APGD, {"rho": 2}),
        (FAB, {"norm": "l1"}),
        (FAB, {"eps": math.nan}),
        (FAB, {"steps": 0}),
        (FAB, {"targets": 0}),
        (FAB, {"alpha_max": -1}),
        (FAB, {"beta": 0}),
        (FAB, {"eta": 0.9}),
        (AutoAttack, {"norm": "l1"}),
        (AutoAttack, {"eps": math.nan}),
        (AutoAttack, {"steps": 0}),
        (AutoAttack, {"targets": 0}),
        (AutoAttack, {"queries": 0}),
        (Square, {"norm": "l1"}),
        (Square, {"eps": -1}),
        (Square, {"queries": 0}),
        (Square, {"p_init": 0}),
        (DeepFool, {"norm": "l1"}),
        (DeepFool, {"steps": -1}),
        (DeepFool, {"candidates": 1}),
        (DeepFool, {"overshoot": -1}),
        (DeepFool, {"protocol": "foolbox"}),
        (DDN, {"steps": 0}),
        (DDN, {"gamma": 1}),
        (DDN, {"init_norm": 0}),
        (DDN, {"levels": 1}),
        (FMN, {"norm": "l3"}),
        (FMN, {"steps": 0}),
        (FMN, {"step_size": 0}),
        (FMN, {"gamma": math.nan}),
        (SigmaZero, {"steps": 0}),
        (SigmaZero, {"step_size": 0}),
        (SigmaZero, {"sigma": 0}),
        (SigmaZero, {"threshold": 1.1}),
        (SigmaZero, {"threshold_step": -1}),
        (SinglePixel, {"max_pixels": 0}),
        (LocalSearch, {"r": 2.1}),
        (LocalSearch, {"p": -1}),
        (LocalSearch, {"d": -1}),
        (LocalSearch, {"t": 0}),
        (LocalSearch, {"R": -1}),
        (LocalSearch, {"order": "old"}),
        (LocalSearch, {"protocol": "foolbox"}),
    ],
)
def test_settings_out_of_range_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(settings))):
        kind(Network(), **settings)


CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "attack").glob("*.yaml"))


@pytest.mark.parametrize("protocol", ["strict", "foolbox1"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_attacks(path: Path, protocol: str) -> None:
    with initialize_config_dir(str(path.parents[1]), version_base="1.3"):
        spec = declared_attacks([path.stem], protocol)[path.stem]
    model = Watched()
    attack = build(spec, model)
    images, labels = draw(model, 2)
    assert attack(images, labels).shape == images.shape
    if "protocol" in spec and isinstance(attack, LocalSearch):
        assert attack.order == {"strict": "fixed", "foolbox1": "foolbox1"}[protocol]
    elif "protocol" in spec:
        assert attack.protocol == protocol
