"""Figures that were once wrong without a word: each is right now, or the word is said."""

import csv
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from conftest import run_command
from test_attacks_table import ROWS, Row, every_attack
from torch import Tensor, nn

from funn.artifacts.files import read_json
from funn.attacks import FGSM, PGD, BatchedAttack, LocalSearch, SinglePixel, Square
from funn.data.images import Images
from funn.data.synthetic import SyntheticDigits
from funn.evaluation.records.metrics import percent
from funn.evaluation.trials.run_attack import predict
from funn.fast_layers import with_fast_layers

# What users bring, each fitted to the digits in a moment, but for what is said of it.
SEEN = """
import torch
from torch import nn
from funn.data.synthetic import SyntheticDigits

torch.manual_seed(0)
TRAIN = SyntheticDigits(None, 300, 10).train


class Normalising(nn.Sequential):
    def forward(self, x):
        return super().forward((x - 0.5) / 0.25)


class Linear(nn.Sequential):
    def forward(self, x):
        return super().forward(x.sub(0.5).div(0.25))


class InPlace(nn.Sequential):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))


class Random(nn.Sequential):
    def forward(self, x):
        logits = super().forward(x)
        return logits + 0.3 * torch.randn_like(logits)


class Rounded(nn.Sequential):
    def forward(self, x):
        return super().forward((2 * x).round() / 2)


class Repeating(nn.Sequential):
    def forward(self, x):
        return super().forward(x.repeat(1, 3, 1, 1))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, 2, 1)
        self.gate = nn.Conv2d(2, 1, 7, padding=3)
        self.last = nn.Linear(784, 10)

    def forward(self, x):
        x = torch.sigmoid(self.gate(torch.cat((x.mean(1, True), x.amax(1, True)), 1))) * x
        maps = torch.relu(self.first(x))
        seen = torch.cat((maps.mean(1, True), maps.amax(1, True)), 1)
        maps = maps * torch.sigmoid(self.gate(seen))
        return self.last(maps.flatten(1))


class Colour(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.48, 0.45, 0.4]).view(3, 1, 1))
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(784, 10))

    def forward(self, x):
        return self.layers((x - self.mean) / 0.25)


@torch.no_grad()
def fitted(model):
    *_, last = (part for part in model.modules() if isinstance(part, nn.Linear))
    kept = []
    handle = last.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    model.eval()(TRAIN.floats())
    handle.remove()
    features, wanted = kept[0].double(), nn.functional.one_hot(TRAIN.labels).double()
    mean = features.mean(0)
    square = (features - mean).T @ (features - mean)
    ridge = 1e-2 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    weight = torch.linalg.solve(square + ridge, (features - mean).T @ (wanted - 0.1))
    last.weight.copy_(weight.T)
    last.bias.copy_(-mean @ weight)
    return model


def convolutional(channels=1):
    return nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)


def linear():
    return nn.Flatten(), nn.Linear(784, 10)


def own_forward():
    return fitted(Normalising(*convolutional()))


def hooked():
    model = nn.Sequential(*convolutional())
    model[0].register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 0.5) / 0.25,))
    return fitted(model)


def leaves_alone():
    return fitted(Linear(*linear()))


def in_place():
    return fitted(InPlace(*linear()))


def random():
    return fitted(Random(*linear()))


def rounded():
    return fitted(Rounded(*linear()))


def repeating():
    return fitted(Repeating(*convolutional(3)))


def gated():
    return fitted(Gated())


def untrained():
    return nn.Sequential(*linear())


def one_logit():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1))


def colour():
    return Colour()
"""
# One takes a number from a module that it imports, the other from a file, each time anew.
CODED = """
import helper
import seen
def make():
    model = seen.leaves_alone()
    model.register_forward_hook(lambda module, inputs, output: output.roll(helper.TURN, 1))
    return model
"""
FILED = """
from pathlib import Path
import seen
def turn():
    return int((Path(__file__).parent / "turn.txt").read_text())
def make():
    model = seen.leaves_alone()
    model.register_forward_hook(lambda module, inputs, output: output.roll(turn(), 1))
    return model
"""
OTHERS = """
from funn.data.images import Images
from funn.data.synthetic import SyntheticDigits
class Upside(SyntheticDigits):
    def load(self):
        return tuple(Images(images.flip(2), labels) for images, labels in super().load())
"""
TEST, COUNT, FEW = 40, 30, 20
ACCEPTED = ("own_forward", "hooked", "leaves_alone", "in_place", "random", "rounded",
            "repeating", "gated", "untrained")  # fmt: skip
REFUSED = ("one_logit", "colour")
DATA = ("data=synthetic", "data.train_size=300", f"data.test_size={TEST}")
ATTACK = "attack=deepfool_l2"
# And one more of the strongest.
SUITE = (
    "suite=strong",
    *(f"~suite.attacks.{name}" for name in ("deepfool_linf", "fmn_l2", "fmn_linf", "fmn_l0")),
    *(f"~suite.attacks.{name}" for name in ("ddn", "sigma_zero")),
    *(
        f"~suite.cascade.{norm}.attacks.{name}"
        for norm in ("l2", "linf")
        for name in ("apgd_ce", "apgd_t", "fab_t", "feature_pgd")
    ),
    "suite.cascade.l2.radii=[0.5]",
    "suite.cascade.linf.radii=[0.05]",
    "suite.cascade.l2.attacks.square.queries=20",
    "suite.cascade.linf.attacks.square.queries=20",
)


class Told(NamedTuple):
    """What one job of a command told.

    Attributes:
        text: all that it said, in order.
        folder: of its classifier under outputs/eval; None if it failed.
        code: with which the command ended.
    """

    text: str
    folder: Path | None
    code: int

    @property
    def figures(self) -> str:
        """Its line of figures."""
        return self.text.partition("deepfool_l2-strict: success ")[2].partition("\n")[0]

    def result(self) -> Any:
        """The result of DeepFool on the images of the first command."""
        assert self.folder is not None
        results = map(read_json, self.folder.glob("deepfool_l2-*/result.json"))
        (found,) = (result for result in results if result["images"] == COUNT)
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder."""
    place = tmp_path_factory.mktemp("place")
    for name, text in (("seen", SEEN), ("coded", CODED), ("filed", FILED), ("others", OTHERS)):
        (place / f"{name}.py").write_text(text)
    turned(place, 0)
    return place


def turned(place: Path, by: int) -> None:
    (place / "helper.py").write_text(f"TURN = {by}\n")
    (place / "turn.txt").write_text(f"{by}\n")


def command(place: Path, script: str, *typed: str) -> Any:
    variables = {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    return run_command(script, *typed, f"output_dir={place / 'outputs'}", **variables)


def jobs(place: Path, victims: Sequence[str], *typed: str) -> list[Told]:
    """Run one command of several jobs, and return what each told, in their order."""
    names = f"victim={','.join(victims)}"
    done = command(place, "evaluate.py", "-m", names, *DATA, "logger=csv", *typed)
    sweep = max((place / "outputs/log").glob("evaluate-sweep-*"), key=lambda path: path.name)
    paths = sorted(sweep.glob("*/evaluate.log"), key=lambda path: int(path.parent.name))
    roots = iter([line for line in done.stdout.splitlines() if line.startswith(str(place))])
    told = []
    for path in paths:
        text = path.read_text()
        root = None if "job failed" in text else Path(next(roots))
        told.append(Told(text, root, done.returncode))
    return told


@pytest.fixture(scope="module")
def first(place: Path) -> dict[str, Told]:
    """What the first command told of each classifier."""
    users = {name: f"seen:{name}" for name in (*ACCEPTED, *REFUSED)}
    users |= {"coded": "coded:make", "filed": "filed:make"}
    told = jobs(place, list(users.values()), ATTACK, f"images={COUNT}")
    return dict(zip(users, told, strict=True))


@pytest.fixture(scope="module")
def seen(place: Path) -> Iterator[Any]:
    """The user's module, with `Normalising` and the like."""
    sys.path.insert(0, str(place))
    import seen

    yield seen
    sys.path.remove(str(place))
    del sys.modules["seen"]


class Box(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def convolutional(kind: type[nn.Sequential] = nn.Sequential) -> nn.Sequential:
    torch.manual_seed(0)
    return kind(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    ).eval()  # fmt: skip


def drawn(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def hook_before(model: nn.Sequential) -> None:
    model[0].register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 0.5) / 0.25,))


def hook_behind(model: nn.Sequential) -> None:
    model[0].register_forward_hook(lambda module, inputs, output: 4 * output)


PIXELS = {
    "single pixel": SinglePixel,
    "local search": lambda model: LocalSearch(model, R=6, t=2, d=2),
}
HIDDEN = {
    "own forward": lambda: convolutional(Normalising),
    "hook before": lambda: changed(convolutional(), hook_before),
    "hook behind": lambda: changed(convolutional(), hook_behind),
}


class Normalising(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 0.5) / 0.25)


def changed(model: nn.Sequential, change: Any) -> nn.Sequential:
    change(model)
    return model


@pytest.mark.parametrize("attack", PIXELS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_single_pixels_fool_what_stands_around_the_layers_too(attack: str, hidden: str) -> None:
    model, images = HIDDEN[hidden](), drawn(12, 1, 16, 16)
    labels = predict(model, images, 12)
    result = PIXELS[attack](model).run(images, labels)
    boxed = PIXELS[attack](Box(model)).run(images, labels)
    assert torch.equal(result.success, predict(model, result.adversarials, 12) != labels)
    assert torch.equal(result.success, boxed.success)
    torch.testing.assert_close(result.adversarials, boxed.adversarials)


def test_fast_layers_keep_the_hooks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    ).eval()
    hook_before(model)
    images = drawn(12, 1, 16, 16)
    fast = with_fast_layers(model)
    assert torch.equal(predict(fast, images, 12), predict(model, images, 12))


@pytest.mark.parametrize("name", ["own_forward", "hooked"])
def test_what_an_evaluation_attacks_is_the_users_model(
    first: dict[str, Told], seen: Any, name: str
) -> None:
    test = SyntheticDigits(Path(), 300, TEST).test
    right = predict(getattr(seen, name)(), test.floats(COUNT), COUNT) == test.labels[:COUNT]
    assert right.float().mean() > 0.5
    result = first[name].result()
    assert result["clean_accuracy"] == pytest.approx(right.float().mean().item())
    assert result["attacked"] == right.sum()
    assert result["success_rate"] > 0
    assert result["success_rate_verified"] == pytest.approx(result["success_rate"], abs=0.05)


class InPlace(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).div_(0.25))


IN_PLACE = {
    "square linf": (lambda model: Square(model, "linf", 0.1, 60), torch.inf, 0.1),
    "square l2": (lambda model: Square(model, "l2", 0.8, 60), 2, 0.8),
    "fgsm": (lambda model: FGSM(model, 0.1), torch.inf, 0.1),
    "pgd": (lambda model: PGD(model, "linf", 0.1, 5), torch.inf, 0.1),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_model_that_changes_its_input_is_attacked_as_one_that_does_not(name: str) -> None:
    make, norm, eps = IN_PLACE[name]
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 10)
    model, twin = InPlace(*layers), Normalising(*layers)
    images = drawn(20, 1, 8, 8)
    labels = predict(twin, images, 20)
    result, same = make(model).run(images.clone(), labels), make(twin).run(images, labels)
    assert ((result.adversarials >= 0) & (result.adversarials <= 1)).all()
    assert ((result.adversarials - images).flatten(1).norm(p=norm, dim=1) <= eps + 1e-5).all()
    assert result.success.any()
    assert torch.equal(result.success, same.success)
    assert torch.equal(result.adversarials, same.adversarials)


def test_an_evaluation_gives_both_the_same_figures(first: dict[str, Told]) -> None:
    ours, theirs = first["in_place"], first["leaves_alone"]
    for figure in ("clean_accuracy", "success_rate", "success_rate_verified", "noise_level"):
        assert ours.result()[figure] == pytest.approx(theirs.result()[figure], rel=1e-4)
    assert "changes its input in place" in ours.text
    assert "changes its input in place" not in theirs.text


@every_attack
def test_one_logit_for_two_classes_is_refused(row: Row) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(ValueError, match="return one for each class"):
        row.make(model).run(drawn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one_logit", "return one for each class"),
        # It would see grey images as tinted ones, and answer.
        ("colour", "makes 3 channels of the 1 of SyntheticDigits"),
    ],
)
def test_a_classifier_of_something_else_gets_one_line_and_no_figure(
    first: dict[str, Told], name: str, said: str
) -> None:
    (line,) = first[name].text.splitlines()
    assert said in line
    assert f"job failed: seen:{name}" in line
    assert first[name].folder is None
    assert first[name].code == 2


def test_a_users_classifier_without_data_gets_one_line(place: Path) -> None:
    done = command(place, "evaluate.py", "victim=seen:untrained", "attack=fgsm", "logger=csv")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "data=" in done.stderr


@pytest.mark.parametrize("name", ["repeating", "gated"])
def test_channels_that_are_made_on_purpose_are_no_mistake(
    first: dict[str, Told], name: str
) -> None:
    assert first[name].result()["clean_accuracy"] > 0.5
    assert "channels" not in first[name].text


def test_an_evaluation_first_says_what_it_attacks_on_what(first: dict[str, Told]) -> None:
    head, _, rest = first["untrained"].text.partition("deepfool_l2-strict: success")
    assert rest
    said = f"{COUNT} of {TEST} test images of SyntheticDigits, 1x28x28, 10 classes: clean accuracy"
    assert said in head
    assert "is near guessing" in head
    assert said in first["hooked"].text
    assert "near guessing" not in first["hooked"].text


def test_a_random_classifier_is_told_to_be_one(first: dict[str, Told]) -> None:
    text, result = first["random"].text, first["random"].result()
    assert "it is random" in text
    assert result["success_rate"] > result["success_rate_verified"] + 0.1
    assert "deepfool_l2-strict: the attack saw" in text
    for name in set(ACCEPTED) - {"random"}:
        assert "random" not in first[name].text
        assert "the attack saw" not in first[name].text


class Grey(nn.Module):
    """Rounds images to black and white."""

    def forward(self, x: Tensor) -> Tensor:
        return x.round()


def without_gradient() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Grey(), nn.Flatten(), nn.Linear(64, 10))


class Certain(nn.Sequential):
    """Of logits so far apart that the softmax is 0 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e6 * super().forward(x)


def certain() -> nn.Module:
    torch.manual_seed(0)
    return Certain(nn.Flatten(), nn.Linear(64, 10))


def attacked_without_a_way(attack: BatchedAttack, model: nn.Module) -> None:
    images = drawn(8, 1, 8, 8).round() * 0.8 + 0.1
    labels = predict(model, images, 8)
    with pytest.warns(UserWarning, match="gradient of exactly zero"):
        attack(images, labels)
    result = attack.run(images, labels)
    assert not result.success.all()
    assert result.blind[~result.success].all()


@pytest.mark.parametrize("row", [row for row in ROWS if row.gradients], ids=lambda row: row.name)
def test_who_has_no_gradient_to_go_by_says_so(row: Row) -> None:
    model = without_gradient()
    attacked_without_a_way(row.make(model), model)


CLIMBS = ("fgsm", "gradient", "bim", "pgd", "detector_aware", "apgd_ce", "ddn")


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name.startswith(CLIMBS)], ids=lambda row: row.name
)
def test_who_climbs_a_cross_entropy_that_is_flat_says_so(row: Row) -> None:
    model = certain()
    attacked_without_a_way(row.make(model), model)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if not row.gradients], ids=lambda row: row.name
)
@pytest.mark.filterwarnings("error")
def test_who_needs_no_gradient_is_never_blind(row: Row) -> None:
    model = without_gradient()
    images = drawn(8, 1, 8, 8)
    labels = predict(model, images, 8)
    attack = row.make(model)
    attack(images, labels)
    assert not attack.run(images, labels).blind.any()


def test_an_evaluation_tells_of_an_attack_that_was_blind(first: dict[str, Told]) -> None:
    text, result = first["rounded"].text, first["rounded"].result()
    assert "deepfool_l2-strict: on " in text
    assert "the gradient was exactly zero" in text
    assert result["blind_failures"] == result["attacked"] - result["successes"] > 0
    assert "exactly zero" not in first["hooked"].text


@pytest.fixture(scope="module")
def again(place: Path, first: dict[str, Told]) -> dict[tuple[str, int], Told]:
    """Once more, by more attacks: by classifier, on as many images as before and on fewer."""
    told = jobs(place, ["coded:make", "filed:make"], *SUITE, f"images={COUNT},{FEW}")
    return dict(zip(product(("coded", "filed"), (COUNT, FEW)), told, strict=True))


@pytest.fixture(scope="module")
def reported(place: Path, again: dict[tuple[str, int], Told]) -> dict[str, dict[str, str]]:
    """The report's table of robust accuracy then, by classifier."""
    done = command(place, "report.py")
    assert done.returncode == 0, done.stderr
    with (place / "outputs/report/robust.csv").open() as stream:
        return {row["encoder"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def later(place: Path, reported: dict[str, dict[str, str]]) -> dict[tuple[str, str], Told]:
    """And after what the classifiers look up has changed: by classifier, on two data sets."""
    turned(place, 1)
    sets = ("funn.data.synthetic.SyntheticDigits", "others.Upside")
    users = ("coded:make", "filed:make")
    target = f"data._target_={','.join(sets)}"
    told = jobs(place, users, ATTACK, f"images={COUNT}", target)
    names = (target.rpartition(".")[2] for target in sets)
    return dict(zip(product(("coded", "filed"), names), told, strict=True))


@pytest.mark.parametrize("name", ["coded", "filed"])
def test_what_has_not_changed_is_reused_and_says_what_was_compared(
    first: dict[str, Told], again: dict[tuple[str, int], Told], name: str
) -> None:
    same = again[name, COUNT]
    assert (same.folder, same.figures) == (first[name].folder, first[name].figures)
    assert f"deepfool_l2-strict: reused {same.folder}" in same.text
    assert "(the same classifier, attack, images, code of " in same.text
    assert "deepfool_l2-strict: reused" not in again[name, FEW].text


@pytest.mark.parametrize("name", ["coded", "filed"])
def test_a_classifier_whose_helper_has_changed_is_attacked_again(
    first: dict[str, Told], later: dict[tuple[str, str], Told], name: str
) -> None:
    now = later[name, "SyntheticDigits"]
    assert "reused" not in now.text
    assert now.figures.rpartition(", ")[2] != first[name].figures.rpartition(", ")[2]


@pytest.mark.parametrize("name", ["coded", "filed"])
def test_the_same_name_on_other_data_is_another_classifier(
    later: dict[tuple[str, str], Told], name: str
) -> None:
    digits, upside = later[name, "SyntheticDigits"], later[name, "Upside"]
    assert upside.folder != digits.folder
    assert upside.folder.parent == digits.folder.parent
    assert upside.result()["data"]["name"] == "Upside"
    assert "reused" not in upside.text


@pytest.mark.parametrize("name", ["coded", "filed"])
def test_fewer_images_leave_what_was_found_of_more(
    first: dict[str, Told], reported: dict[str, dict[str, str]], name: str
) -> None:
    """The robust accuracy of suite=strong; and the report shows that of more."""
    row, folder = reported[f"{name}:make"], first[name].folder
    assert row["images"] == str(COUNT)
    assert folder is not None
    results = map(read_json, folder.glob("robust_accuracy-*/result.json"))
    found = {result["images"]: result for result in results if result is not None}
    assert found.keys() == {COUNT, FEW}
    assert found[COUNT]["l2"]["0.5"]["images"] == COUNT
    assert row["L2 0.5"].startswith(percent(found[COUNT]["l2"]["0.5"]["robust_accuracy"]))


@pytest.mark.parametrize("kind", ["masking", "features"])
def test_a_killed_study_goes_on_where_it_was(tmp_path: Path, kind: str) -> None:
    from funn.evaluation.studies import study

    victim = SimpleNamespace(digest="a", facts={"run": "a"})
    test = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    done: list[str] = []

    def work(folder: Any, once: Any) -> dict[str, Any]:
        def find(name: str) -> Any:
            done.append(name)
            if done == ["first", "second"]:
                raise KeyboardInterrupt
            return {"figure": len(done)}

        return {name: once(name, partial(find, name)) for name in ("first", "second")}

    def begin() -> Any:
        return study(
            kind,
            tmp_path,
            victim,
            test,
            {"steps": 3},
            ["funn.evaluation.gradient_masking.checks"],
            work,
            True,
        )

    with pytest.raises(KeyboardInterrupt):
        begin()
    (folder,) = tmp_path.iterdir()
    assert read_json(folder / "status.json")["state"] == "interrupted"
    assert not (folder / "result.json").exists()
    assert begin().path == folder
    assert done == ["first", "second", "second"]
    found = read_json(folder / "result.json")
    assert (found["first"], found["second"]) == ({"figure": 1}, {"figure": 3})
    assert read_json(folder / "status.json")["state"] == "finished"
    begin()
    assert len(done) == 3
