"""Robust accuracy as the worst of all attacks, on a classifier whose boundary is known."""

import json
import re

import pytest
import torch
from conftest import run_command
from torch import nn

from funn.artifacts.layout import RADII, RECORDS, ROBUST, cascade_folder
from funn.attacks import PGD
from funn.evaluation.records.radii import at, read_radii, survivors
from funn.evaluation.records.table import read_table
from funn.evaluation.trials.progress import batches_told

LINEAR = """
import torch
from torch import nn

def linear():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        model[1].weight.normal_(0, 0.03)
    return model
"""


def test_a_radius_of_eps_is_broken_there():
    radius = torch.tensor([0.0, 1.0, 1.0000001, 1.01, torch.inf])
    assert survivors(radius, 1.0).tolist() == [3, 4]
    assert at(radius, 1.0)["robust_accuracy"] == 0.4
    assert at(radius[:0], 1.0)["robust_accuracy"] is None


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The victim's folder of evaluations, and what the command told."""
    folder = tmp_path_factory.mktemp("strong")
    (folder / "mine.py").write_text(LINEAR)
    done = run_command(
        "evaluate.py", "victim=mine:linear", "suite=strong", "data=synthetic",
        "data.test_size=60", "data.train_size=100", "images=50", "logger=csv",
        "suite.cascade.l2.attacks.square.queries=50",
        "suite.cascade.linf.attacks.square.queries=50",
        "suite.cascade.l2.radii=[0.03,0.1,0.5]", "suite.cascade.linf.radii=[0.001,0.1]",
        f"output_dir={folder}", PYTHONPATH=str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (root,) = folder.glob("eval/mine-linear-*")
    return root, done.stderr


@pytest.fixture(scope="module")
def evaluated(command):
    return command[0]


@pytest.fixture(scope="module")
def told(command):
    return command[1]


def found(evaluated):
    """What the suite found out, and the radii beside it."""
    (path,) = evaluated.glob(f"{ROBUST}-*/result.json")
    return json.loads(path.read_text()), read_radii(path.parent / RADII)


def test_every_image_has_its_worst(evaluated):
    summary, radii = found(evaluated)
    rates = {
        norm: [summary[norm][eps]["robust_accuracy"] for eps in sorted(summary[norm], key=float)]
        for norm in ("l2", "linf")
    }
    assert all(sorted(values, reverse=True) == values for values in rates.values())
    assert summary["l2"]["0.5"]["images"] == 50
    # The table says what the curve shows, though later attacks may have come nearer.
    for norm in ("l2", "linf"):
        for eps, cell in summary[norm].items():
            assert cell["robust_accuracy"] == at(radii[norm], float(eps))["robust_accuracy"]
    # Whatever attack found an image, within its distance it is broken; nothing is attacked twice.
    distances = torch.full((50,), torch.inf, dtype=torch.float64)
    for path in evaluated.glob("deepfool*/records.parquet"):
        for row in read_table(path).to_pylist():
            if row["success_verified"]:
                distances[row["index"]] = min(distances[row["index"]], row["l2"])
    for eps, cell in summary["l2"].items():
        assert cell["robust_accuracy"] <= (distances > float(eps)).double().mean()
    attacked = [len(read_table(path)) for path in cascade_folder(evaluated).glob(f"*/{RECORDS}")]
    assert all(count < 50 for count in attacked)


def test_the_robust_accuracy_of_a_linear_classifier_is_known(evaluated):
    """The share of images farther than eps from the nearest boundary; clipping only adds to it."""
    from funn.data.synthetic import SyntheticDigits

    test = SyntheticDigits(evaluated, 100, 60).test
    namespace = {}
    exec(LINEAR, namespace)
    model: nn.Sequential = namespace["linear"]()
    images, labels = test.floats(50), test.labels[:50]
    with torch.no_grad():
        logits, weight = model(images), model[1].weight
        gaps = logits.gather(1, labels[:, None]) - logits
        lengths = (weight[labels][:, None] - weight[None]).norm(dim=2)
        distances = (gaps / lengths.clamp(min=1e-12)).scatter(1, labels[:, None], torch.inf).amin(1)
    summary, _ = found(evaluated)
    for eps, cell in summary["l2"].items():
        assert cell["robust_accuracy"] >= (distances > 1.02 * float(eps)).double().mean()


def test_every_step_of_the_cascade_says_what_it_left(evaluated, told):
    """By norm, eps and attack; at the end a table, and where the result lies."""
    summary, _ = found(evaluated)
    lines = [line for line in told.splitlines() if re.match(r"(L2|Linf) [\d.]+, ", line)]
    steps = re.findall(
        r"^(L2|Linf) ([\d.]+), (\w+): (\d+) images left, (\d+) of them broken; "
        r"robust accuracy ([\d.]+) % \((\d+) of 50\)$",
        told,
        re.MULTILINE,
    )
    assert (
        len(steps)
        == len(lines)
        == sum(len(cell["broken"]) for norm in ("l2", "linf") for cell in summary[norm].values())
    )
    for norm, eps, attack, before, broken, rate, left in steps:
        assert summary[norm.lower()][eps]["broken"][attack] == int(broken)
        assert int(before) - int(broken) == int(left)
        assert float(rate) == pytest.approx(2 * int(left))
    table = told[told.index("threat  ") :].splitlines()
    low, high = summary["linf"]["0.1"]["interval"]
    (row,) = (line for line in table if line.startswith("Linf 0.1 "))
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in row
    (path,) = evaluated.glob(f"{ROBUST}-*/result.json")
    assert str(path) in table


def test_the_bar_moves_with_every_batch_and_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images, labels = torch.rand(10, 1, 4, 4), torch.zeros(10, dtype=torch.int64)
    attack = PGD(model, "linf", 0.1, steps=3)
    attack.batch_size = 4
    alone = attack.run(images, labels)
    seen = []
    with batches_told(attack, seen.append):
        watched = attack.run(images, labels)
    assert torch.equal(alone.adversarials, watched.adversarials)
    assert sum(seen) == alone.forwards.sum()
    assert max(seen) <= 4
    attack.run(images, labels)
    assert sum(seen) == alone.forwards.sum()
