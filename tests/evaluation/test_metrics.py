from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from funn.attacks.core.result import AttackResult
from funn.evaluation.records.metrics import summarize, wilson
from funn.evaluation.records.table import records
from funn.evaluation.records.verification import float64_verifier


def summary(table):
    return asdict(summarize(table))


class Linear(nn.Module):
    """Two classes on two pixels: class 0 where the first pixel is the larger."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x.flatten(1) * self.scale


def image(a, b):
    return torch.tensor([a, b]).view(1, 1, 1, 2)


def measure(adversarials, tracked):
    clean = image(0.8, 0.4).repeat(len(adversarials), 1, 1, 1)
    count = torch.ones(len(adversarials), dtype=torch.int64)
    result = AttackResult(
        torch.cat(adversarials), torch.tensor(tracked), count, count / 10, 3 * count, 2 * count,
        torch.zeros(len(adversarials), dtype=torch.bool),
    )  # fmt: skip
    labels = torch.zeros(len(adversarials), dtype=torch.int64)
    return records(float64_verifier(Linear()), 10, clean, labels, labels, labels, result)


def test_records_are_distances_and_margins_of_each_image():
    table = measure([image(0.5, 0.8)], [True])
    row = table.to_pylist()[0]
    assert row["index"] == 10
    assert row["l0"] == 2
    assert row["l1"] == pytest.approx(0.7)
    assert row["l2"] == pytest.approx(0.5)
    assert row["linf"] == pytest.approx(0.4)
    assert row["margin"] == pytest.approx(-0.3)
    assert row["success_verified"]
    assert (row["forwards"], row["backwards"]) == (3, 2)


@pytest.mark.parametrize(
    "adversarial",
    [
        image(0.8, 0.7),  # still class 0
        image(0.5, 1.1),  # outside the box
        image(0.5, -0.1),
        image(float("nan"), 0.5),  # the argmax of NaN is no proof
        image(0.5, float("inf")),
        image(0.5, 0.5),  # on the boundary
    ],
)
def test_what_the_attack_claims_is_verified(adversarial):
    row = measure([adversarial], [True]).to_pylist()[0]
    assert row["success_tracked"]
    assert not row["success_verified"]


def test_summary_by_hand():
    table = measure(
        [image(0.5, 0.8), image(0.6, 0.60001), image(0.8, 0.4), image(0.5, 0.5)],
        [True, True, False, True],
    )
    # A fifth image was misclassified from the start: no attack counts it.
    wrong = table.slice(0, 1).to_pylist()[0] | {"clean_prediction": 1}
    table = pa.concat_tables([table, pa.Table.from_pylist([wrong], schema=table.schema)])
    figures = summary(table)
    assert (figures["images"], figures["attacked"]) == (5, 4)
    assert figures["clean_accuracy"] == pytest.approx(0.8)
    assert figures["success_rate"] == pytest.approx(3 / 4)
    assert figures["success_rate_verified"] == pytest.approx(2 / 4)
    norms = [0.5, np.hypot(0.2, 0.20001), np.hypot(0.3, 0.1)]
    assert figures["noise_level"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert figures["noise_level_verified"] == pytest.approx(np.mean(norms[:2]), rel=1e-5)
    # Failures count as infinite: of (0.28, 0.32, 0.5, inf) the median is 0.41.
    assert figures["median_l2"] == pytest.approx((norms[2] + norms[0]) / 2, rel=1e-5)
    assert figures["median_l2_verified"] is None
    assert figures["rounding_share"] == pytest.approx(2 / 3)


def test_summary_of_an_attack_that_never_succeeds():
    figures = summary(measure([image(0.8, 0.4)], [False]))
    assert figures["success_rate"] == 0
    assert figures["noise_level"] is None
    assert figures["median_l2"] is None
    assert figures["rounding_share"] is None


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    # Reference values: Newcombe 1998, Statistics in Medicine 17, Table I, method 3.
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)),
     (1, 29, (0.0061, 0.1718))],
)  # fmt: skip
def test_wilson_interval(successes, trials, interval):
    assert wilson(successes, trials) == pytest.approx(interval, abs=5e-5)


def test_no_interval_without_trials():
    assert wilson(0, 0) is None
