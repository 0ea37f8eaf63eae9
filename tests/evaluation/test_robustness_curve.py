"""Robust accuracy against eps on arrays that are small enough to count by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funn.evaluation.records.robustness_curve import (
    area_under_curve,
    as_distances,
    curve,
    eps_at,
    largest,
    median_distance,
    robust_accuracy,
)
from funn.report.figures.robustness import against_eps

INF, NAN = math.inf, math.nan
# A clean error, three successes and a failure.
FIVE = [0.0, 1.0, 2.0, 4.0, NAN]


def test_a_failure_is_infinitely_far():
    assert as_distances([0, NAN, INF, 1]).tolist() == [0, INF, INF, 1]
    with pytest.raises(ValueError, match="distances must"):
        as_distances([-1.0])
    with pytest.raises(ValueError, match="distances must"):
        as_distances([[1.0]])


def test_robust_accuracy_is_of_all_images():
    eps = [0, 0.5, 1, 1.5, 2, 3.9, 4, 100, INF]
    expected = [0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2, 0.2]
    np.testing.assert_allclose(robust_accuracy(FIVE, eps), expected)
    assert robust_accuracy(FIVE, 1.0).shape == ()
    assert np.isnan(robust_accuracy([], [0.0, 1.0])).all()


def test_a_budget_exceeded_by_rounding_is_kept():
    assert robust_accuracy([np.float32(0.1)], 0.1) == 0
    assert robust_accuracy([0.1001], 0.1) == 1


def test_the_staircase_falls_at_each_success():
    eps, accuracy = curve(FIVE)
    assert eps.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(accuracy, [0.8, 0.6, 0.4, 0.2])
    eps, accuracy = curve(FIVE, until=3)
    assert eps.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(accuracy, [0.8, 0.6, 0.4, 0.4])
    eps, accuracy = curve([NAN, NAN])
    assert (eps.tolist(), accuracy.tolist()) == ([0], [1])


def test_area_median_and_half():
    assert largest(FIVE) == 4
    # 0.8 up to 1, 0.6 up to 2, 0.4 up to 4; then 0.2.
    assert area_under_curve(FIVE, 4) == pytest.approx(0.8 + 0.6 + 0.4 * 2)
    assert area_under_curve(FIVE, 6) == pytest.approx(2.2 + 0.2 * 2)
    assert area_under_curve([], 1) is None
    assert median_distance(FIVE) == 3  # of 1, 2, 4 and a failure
    assert median_distance([0, 1, NAN]) is None  # infinite
    assert median_distance([0, 0]) is None
    assert eps_at(FIVE) == 2  # three of five are fooled there
    assert eps_at(FIVE, 0.8) == 0
    assert eps_at(FIVE, 0.2) == 4
    assert eps_at(FIVE, 0.1) is None
    assert eps_at([0, 0, 1]) == 0
    assert eps_at([]) == 0


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, INF]), min_size=1, max_size=12))
def test_the_area_is_the_integral_of_the_curve(distances):
    eps, accuracy = curve(distances, until=3)
    integral = (np.diff(eps) * accuracy[:-1]).sum()
    assert area_under_curve(distances, 3) == pytest.approx(integral)


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, INF]), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9]),
)
def test_the_accuracy_falls_to_the_share_at_that_eps_and_not_before(distances, share):
    eps = eps_at(distances, share)
    if eps is None:
        assert robust_accuracy(distances, 1e9) > share
    else:
        assert robust_accuracy(distances, eps) <= share + 1e-12
        if eps > 0:
            assert robust_accuracy(distances, eps - 0.1) > share


def test_the_curves_of_several_defences():
    drawn = against_eps({"funn": FIVE, "classic": [0, 0.5, 1.0], "none": []}, "L2")
    funn, classic = drawn.data
    assert funn.name == "funn (50 % at 2)"
    assert classic.name == "classic (50 % at 0.5)"
    assert list(funn.x) == [0, 1, 2, 4]
    assert list(classic.x) == [0, 0.5, 1, 4]  # as far as the other
    np.testing.assert_allclose(classic.y, [2 / 3, 1 / 3, 0, 0], atol=1e-12)
    assert funn.line.shape == "hv"
    assert "L2" in drawn.layout.title.text
    assert against_eps({}, "L2") is None
    assert [trace.name for trace in against_eps({"strong": [0, NAN, NAN]}, "L2").data] == ["strong"]
