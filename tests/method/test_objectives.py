from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from funn.errors import UserError
from funn.method.objectives import (
    DualAscent,
    attacker_objective,
    constrained,
    minimax,
    mse,
    mse_each,
    printed,
)  # fmt: skip
from funn.method.phases import Adversarial


def test_mse_is_the_mean_over_pixels_and_batch():
    a, b = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    b[0, 0, 0, 0] = 2.0
    assert mse(a, b).item() == pytest.approx(4 / 8)


@pytest.mark.parametrize(
    ("objective", "error", "expected"),
    [
        (constrained, 0.004, 0.02 + 5 * 0.006),  # the constraint is violated by 0.006
        (constrained, 0.012, 0.02),  # and here satisfied
        (printed, 0.004, 0.02),  # the printed sign punishes the attacker's success instead
        (printed, 0.012, 0.02 + 5 * 0.002),
        (minimax, 0.03, -0.03 + 5 * 0.01),  # the perturbation of 0.02 is 0.01 over its bound
    ],
)
def test_values_by_hand(objective, error, expected):
    loss = objective(torch.tensor(0.02), torch.tensor(error), beta=0.01, gamma=5.0)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(("error", "slope"), [(0.004, -5.0), (0.012, 0.0)])
def test_the_constraint_is_free_of_gradient_when_satisfied(error, slope):
    value = torch.tensor(error, requires_grad=True)
    constrained(torch.tensor(0.02), value, beta=0.01, gamma=5.0).backward()
    assert value.grad is not None
    assert value.grad.item() == pytest.approx(slope)


def test_what_one_image_exceeds_makes_up_for_no_other():
    """Errors of 0 and 0.02 have a mean of beta: the constraint holds of the mean, not of each."""
    x, restored = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    restored[1] = 0.02**0.5
    perturbation = torch.zeros(2)
    assert mse_each(x, restored).tolist() == pytest.approx([0, 0.02])
    each = constrained(perturbation, mse_each(x, restored), beta=0.01, gamma=5.0)
    mean = constrained(perturbation.mean(), mse(x, restored), beta=0.01, gamma=5.0)
    assert each.item() == pytest.approx(5 * 0.01 / 2)
    assert mean.item() == pytest.approx(0, abs=1e-8)


def test_a_gamma_that_follows_the_constraint():
    """It rises by rate * (beta - error) while the error is short of beta, and stops at 0."""
    objective = DualAscent(beta=0.01, gamma=5.0, rate=100.0)
    perturbation = torch.tensor(0.02)
    assert objective(perturbation, torch.tensor(0.004)).item() == pytest.approx(0.02 + 5 * 0.006)
    assert objective.gamma.item() == pytest.approx(5.6)
    with torch.no_grad():  # only looking moves nothing
        objective(perturbation, torch.tensor(0.004))
    assert objective.gamma.item() == pytest.approx(5.6)
    objective(perturbation, torch.tensor(0.1))
    assert objective.gamma.item() == 0
    with pytest.raises(UserError, match="one gamma for all images"):
        objective(torch.zeros(2), torch.zeros(2))
    assert "gamma" in objective.state_dict()  # a resumed training goes on from it


@pytest.mark.parametrize("each_image", [False, True])
def test_one_gamma_for_the_errors_of_single_images_is_refused_before_any_training(each_image):
    dual = {"_target_": "funn.method.objectives.DualAscent", "rate": 1.0}
    objective = {"attacker": dual, "each_image": each_image, "defender_input": "clean"}
    config = SimpleNamespace(beta=0.01, gamma=5.0, objective=objective)
    refused = pytest.raises(UserError, match="one gamma for all") if each_image else nullcontext()
    with refused:
        Adversarial().check(config)


def test_an_objective_is_a_function_or_keeps_a_state():
    plain = attacker_objective(
        {"_target_": "funn.method.objectives.constrained"}, beta=0.01, gamma=5.0
    )
    error = torch.tensor(0.004)
    assert plain(error, error).item() == pytest.approx(0.004 + 5 * 0.006)
    dual = {"_target_": "funn.method.objectives.DualAscent", "rate": 1.0}
    assert isinstance(attacker_objective(dual, beta=0.01, gamma=5.0), DualAscent)
    with pytest.raises(UserError, match="rate=0 must be above 0"):
        attacker_objective(dual | {"rate": 0}, beta=0.01, gamma=5.0)
