"""The checks for hidden gradients: an honest classifier passes, each way of hiding is flagged."""

import json

import pytest
import torch
from torch import nn

from funn.data.images import Images
from funn.data.synthetic import SyntheticDigits
from funn.evaluation.gradient_masking.attacks import attacking_checks
from funn.evaluation.gradient_masking.checks import Check, gradient_error, probabilities
from funn.evaluation.gradient_masking.controls import CONTROLS, Saturated
from funn.evaluation.gradient_masking.examine import masking, tell
from funn.evaluation.trials.run_attack import predict


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


@pytest.fixture(scope="module")
def test(model, tmp_path_factory):
    images = SyntheticDigits(tmp_path_factory.mktemp("data"), 10, 30).test.images
    found = Images(images, torch.zeros(30, dtype=torch.int64))
    return Images(images, predict(model, found.floats(), 30))


def now(name, work):
    found = work()
    assert json.loads(json.dumps(found)) == found  # a note is read from a file
    return found


@pytest.mark.slow
def test_an_honest_classifier_passes_and_hidden_gradients_are_flagged(model, test):
    found = masking(model, test, 64, controls=True, other=None, once=now)
    names = {
        name: {check["name"][:3].strip() for check in part["checks"] if not check["passed"]}
        for name, part in found.items()
    }
    assert not found["classifier"]["flagged"], names
    assert {"G2", "G9"} <= names["saturated"]
    assert {"G2", "G7", "G14"} <= names["quantised"]


def test_another_classifier_and_the_features_show_a_better_way(test):
    """The gradient of this one is cut; that of the same without the cut is not."""

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Flatten()
            self.head = head

        def forward(self, x):
            logits = self.head(self.encoder(x).detach())
            return logits + 0 * x.flatten(1).sum(1, keepdim=True)

    torch.manual_seed(0)
    head = nn.Linear(784, 10)
    labels = predict(nn.Sequential(nn.Flatten(), head), test.floats(), 30)
    images = Images(test.images, labels)
    groups = attacking_checks(Cut().eval(), images, 64, nn.Sequential(nn.Flatten(), head))
    found = [check for find in groups.values() for check in find()]
    flagged = {check.name[:3].strip() for check in found if not check.passed}
    assert {"G8", "G14"} <= flagged
    assert any(check.name.startswith("G15") for check in found)


def test_the_gradient_of_another_function_is_found_out(model, test):
    class Straight(nn.Module):
        """Rounds the image, and says that its gradient is that of no rounding."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x + ((4 * x).round() / 4 - x).detach())

    x, labels = test.floats(), test.labels
    assert gradient_error(model, x, labels) < 1e-6
    assert gradient_error(Straight(), x, labels) > 0.1
    assert gradient_error(Saturated(model), x, labels) < 1e-6


def test_probabilities_are_told_from_logits(model, test):
    logits = model(test.floats())
    assert probabilities(logits) == 0
    assert probabilities(logits.softmax(1)) == 1


def test_a_figure_that_is_no_number_is_flagged():
    assert not Check("", float("nan"), 1.0, "", "").passed
    assert Check("", 1.0, 1.0, "", "").passed


def test_each_check_says_what_it_asks_and_each_control_that_it_is_meant_to_be_flagged(caplog):
    passed = Check("G3 relative error", 0.0, 1e-3, "of another function", "How far is it?")
    failed = passed._replace(name="G11 ten starts", figure=0.25)
    part = [check._asdict() | {"passed": check.passed} for check in (passed, failed)]
    content = {name: {"flagged": True, "checks": part} for name in ("classifier", *CONTROLS)}
    with caplog.at_level("INFO"):
        tell(content)
    assert caplog.text.count("passed   G3  How far is it? 0 (at most 0.001)") == 3
    assert caplog.text.count("FLAGGED  G11 How far is it? 0.25 (at most 0.001): of another") == 3
    assert caplog.text.count("it is meant to be flagged") == 2
    assert "saturated logits" in caplog.text
    assert "rounded inputs" in caplog.text
    assert "trust no verdict" not in caplog.text
    content["quantised"]["flagged"] = False
    with caplog.at_level("WARNING"):
        tell(content)
    assert "control quantised was not flagged: trust no verdict" in caplog.text
