"""What the bench measures with, and what it draws."""

import sys

import pytest
import torch

from benchmarks.limits import operations
from benchmarks.plots import cost as cost_plot
from benchmarks.plots import speed
from benchmarks.size import cost, generated, trained
from benchmarks.training import players_by_hand
from funn.artifacts.files import write_json
from funn.data.images import to_unit
from funn.evaluation.trials.run_attack import predict


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the peak of one task")
def test_the_peak_of_a_task_is_its_own_and_not_that_of_one_before():
    def takes(mebibytes):
        return cost(lambda: torch.ones(mebibytes * 2**18).sum())["mebibytes"]

    assert takes(200) == pytest.approx(200, abs=20)
    assert takes(50) == pytest.approx(50, abs=20)


def test_the_operations_of_a_batch_are_those_of_its_products():
    """Of the init phase: each layer forward, and backward to its weights and to its input."""
    encoder = 14 * 14 * 9 * 16, 7 * 7 * 9 * 16 * 32, 1568 * 64
    attacker = *encoder, 80 * 1568, *encoder[:2]
    defender = *encoder, 64 * 1568, *encoder[:2]
    once = 2 * 128 * (sum(attacker) + sum(defender))
    of_images = 2 * 128 * 2 * encoder[0]  # the images need no gradient
    counted = operations(lambda batches: players_by_hand("init", batches))
    assert counted == pytest.approx(3 * once - of_images, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 20])
def test_a_moment_of_training_tells_the_generated_classes_apart(classes):
    images, labels = generated(200, classes)
    model = trained(1, classes)
    assert (predict(model, to_unit(images), 100) == labels).double().mean() > 0.9


def test_the_plots_draw_what_was_measured(tmp_path):
    assert speed(tmp_path) is None
    assert cost_plot(tmp_path) is None
    write_json(tmp_path / "bench.json", {"training": {"init": {"speedup": 1.25}}})
    write_json(tmp_path / "strong.json", {"seconds": {"ours": 2.0, "authors": 3.0}})
    (bars,) = speed(tmp_path).data
    assert dict(zip(bars.y, bars.x, strict=True)) == {
        "training init: by hand": 1.25, "AutoAttack: its authors' code": 1.5,
    }  # fmt: skip
    rows = [
        {"task": "FGSM", "against": "images", "size": size, "seconds": size / 8, "mebibytes": 7.0}
        for size in (64, 16)
    ]
    write_json(tmp_path / "size.json", {"rows": rows})
    drawn = [line for line in cost_plot(tmp_path).data if line.x]
    assert [(line.x, line.y) for line in drawn] == [((16, 64), (2, 8)), ((16, 64), (7, 7))]
