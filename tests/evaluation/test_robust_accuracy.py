"""Robust accuracy as the worst of all attacks, on a classifier whose boundary is known."""

import json

import pytest
import torch
from conftest import run_command
from torch import nn

from funn.artifacts.layout import RADII, RECORDS, ROBUST, cascade_folder
from funn.evaluation.records.radii import at, read_radii, survivors
from funn.evaluation.records.table import read_table

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
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strong")
    (folder / "mine.py").write_text(LINEAR)
    done = run_command(
        "evaluate.py", "victim=mine:linear", "suite=strong", "data=synthetic",
        "data.test_size=60", "data.train_size=100", "images=50", "logger=csv",
        "suite.cascade.l2.attacks.square.queries=50",
        "suite.cascade.linf.attacks.square.queries=50",
        f"output_dir={folder}", PYTHONPATH=str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (root,) = folder.glob("eval/mine-linear-*")
    return root


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
