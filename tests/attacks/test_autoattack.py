"""AutoAttack's standard version is the union of its parts."""

import pytest
import torch
from test_attacks_table import Network, draw

from funn.attacks import APGD, FAB, AutoAttack, Square


@pytest.fixture(scope="module")
def model():
    return Network()


# So small that many images withstand, and that APGD-T fools some that APGD-CE does not.
EPS = {"l2": 0.055, "linf": 0.009}


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_fools_what_any_of_its_parts_fools(model, norm):
    images, labels = draw(model, 120)
    attack = AutoAttack(model, norm, EPS[norm], steps=5, targets=9, queries=100)
    result = attack.run(images, labels)
    parts = [part.run(images, labels) for part in attack.parts()]
    fooled = torch.stack([part.success for part in parts])
    assert torch.equal(result.success, fooled.any(0))
    assert 0 < result.success.sum() < len(images)
    left = torch.ones_like(result.success)
    forwards, backwards = torch.zeros(2, len(images), dtype=torch.int64)
    for part in parts:
        first = left & part.success
        torch.testing.assert_close(result.adversarials[first], part.adversarials[first])
        assert torch.equal(result.step[first], part.step[first])
        forwards[left] += part.forwards[left]
        backwards[left] += part.backwards[left]
        left &= ~part.success
    assert torch.equal(result.adversarials[left], images[left])
    assert torch.equal(result.forwards, forwards)
    assert torch.equal(result.backwards, backwards)


def test_square_fools_what_the_gradients_do_not_show():
    """Of a classifier that rounds its inputs, whose gradients are zero."""

    class Rounded(Network):
        def forward(self, x):
            return super().forward((10 * x).round() / 10)

    model = Rounded()
    images, labels = draw(model, 20)
    attack = AutoAttack(model, "linf", 0.1, steps=5, targets=3, queries=200)
    *by_gradient, by_search = [part.run(images, labels).success for part in attack.parts()]
    alone = by_search & ~torch.stack(by_gradient).any(0)
    assert alone.any()
    assert attack.run(images, labels).success[alone].all()


def test_by_default_it_is_the_standard_version(model):
    """As the authors' `version="standard"`: 100 steps, 9 targets, 5,000 queries, one start each."""
    ce, targeted, fab, square = AutoAttack(model, "linf", 0.1).parts()
    assert isinstance(ce, APGD)
    assert isinstance(targeted, APGD)
    assert isinstance(fab, FAB)
    assert isinstance(square, Square)
    assert (ce.loss, targeted.loss) == ("ce", "dlr_targeted")
    assert {ce.steps, targeted.steps, fab.steps} == {100}
    assert {targeted.targets, fab.targets} == {9}
    assert (square.queries, square.p_init) == (5000, 0.8)
    assert (ce.rho, targeted.rho) == (0.75, 0.75)
    assert (fab.alpha_max, fab.eta, fab.beta) == (0.1, 1.05, 0.9)
    assert {part.eps for part in (ce, targeted, fab, square)} == {0.1}
    assert {part.norm for part in (ce, targeted, fab, square)} == {"linf"}


def test_its_parts_take_its_batch_size(model):
    attack = AutoAttack(model)
    attack.batch_size = 7
    assert {part.batch_size for part in attack.parts()} == {7}
