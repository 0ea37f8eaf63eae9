"""The drawings of the paper's figures, and the histogram of gradient zeros."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch
import yaml
from conftest import ROOT
from test_report import a_result
from torch import nn

from funn.config.build import build_module
from funn.data.images import Images
from funn.evaluation.gradient_masking.zero_gradients import gradient_zeros
from funn.method.classifier import classifier_spec
from funn.method.objectives import attacker_objective
from funn.report.figures.drawings import Layer, drawings, formula, layers
from funn.report.figures.zero_gradients import binned, gradient_histogram
from funn.report.inputs.stages import reported_stages, stage_folder
from funn.training.checkpoint import save

MODELS = {
    "paper": {
        "_target_": "funn.method.networks.DenseAutoEncoder",
        "channels": [16, 32],
        "features": 64,
    },
    "conv_features": {
        "_target_": "funn.method.networks.ConvAutoEncoder",
        "channels": [16, 32],
        "maps": 4,
    },
}
CONFIG = {
    "beta": 0.02,
    "gamma": 5.0,
    "objective": {"attacker": {"_target_": "funn.method.objectives.constrained"}},
}


def trained(root, model, noise=16):
    """Write the checkpoints of a run of this model, and return its result."""
    shape = {"image_shape": [1, 28, 28]}
    players = {
        "attacker": MODELS[model] | shape | {"noise": noise},
        "defender": MODELS[model] | shape | {"noise": 0},
    }
    head = {"_target_": "funn.method.networks.Head", "hidden": [48]}
    whole = classifier_spec(players["defender"], head, 10)
    save(root / "train/f/adversarial/model.ckpt",
         {name: (spec, build_module(spec)) for name, spec in players.items()})  # fmt: skip
    save(root / "train/f/classifier/model.ckpt", {"classifier": (whole, build_module(whole))})
    parents = [
        {"stage": stage, "path": f"f/{stage}/model.ckpt"} for stage in ("classifier", "adversarial")
    ]
    return a_result(trained=CONFIG, parents=parents, run="f", encoder="funn")


def words(svg):
    return [text for text in ElementTree.fromstring(svg).itertext() if text]


@pytest.mark.parametrize("model", MODELS)
def test_every_number_of_the_networks_is_drawn(tmp_path, model):
    drawn = drawings(tmp_path, trained(tmp_path, model))
    for title, player in (("3a", "attacker"), ("3b", "defender")):
        noise = 16 if player == "attacker" else 0
        network = build_module(MODELS[model] | {"image_shape": (1, 28, 28), "noise": noise})
        (svg,) = (svg for name, svg in drawn.items() if title in name)
        counts = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", svg)]
        assert sum(counts) == sum(value.numel() for value in network.parameters())
        assert ("and 16 uniform numbers" in words(svg)) == (noise > 0)
        assert "(1 + tanh) / 2" in svg


def test_another_model_another_drawing(tmp_path):
    paper, maps = (drawings(tmp_path, trained(tmp_path, model)) for model in MODELS)
    assert any("dense" in word for word in words(paper["Figure 3b: the defender D"]))
    assert not any("dense" in word for word in words(maps["Figure 3b: the defender D"]))
    attacker = words(maps["Figure 3a: the attacker A"])
    assert attacker[attacker.index("and 16 uniform numbers") + 1] == "5 x 4 x 4"
    assert any(word.startswith("48, ") for word in words(next(reversed(paper.values()))))


def test_the_concept_has_the_configuration_in_it(tmp_path):
    text = words(drawings(tmp_path, trained(tmp_path, "paper", noise=8))["Figure 1: the concept"])
    assert "uniform vector, 8 numbers" in text
    assert "A minimises perturbation + 5 * max(0.02 - error, 0)" in text
    assert "1 x 28 x 28" in text


def test_nothing_is_drawn_without_a_game_or_its_files(tmp_path):
    result = trained(tmp_path, "paper")
    assert drawings(tmp_path, replace(result, parents=result.parents[:1])) == {}
    (tmp_path / "train/f/adversarial/model.ckpt").unlink()
    assert stage_folder(tmp_path, result, "adversarial") is None
    assert drawings(tmp_path, result) == {}


def test_stages_are_those_of_the_reported_runs(tmp_path):
    result = trained(tmp_path, "paper")
    other = replace(result, run="g", encoder="funn (beta=1)")
    found = reported_stages(tmp_path, [result, other], {"funn": "f"}, "adversarial")
    assert found == {"funn": tmp_path / "train/f/adversarial"}


@pytest.mark.parametrize("name", ["constrained", "printed", "minimax", "dual"])
def test_a_formula_is_what_its_objective_computes(name):
    spec = yaml.safe_load((ROOT / f"conf/objective/{name}.yaml").read_text())["attacker"]
    for perturbation, error in ((0.01, 0.3), (0.3, 0.01)):
        values = {"perturbation": perturbation, "error": error}
        loss = attacker_objective(spec, 0.1, 5.0)(*map(torch.tensor, values.values()))
        said = formula(spec, beta=0.1, gamma=5)
        assert eval(said, {"max": max, "gamma_t": 5}, values) == pytest.approx(float(loss))


def test_an_objective_of_ones_own_is_drawn_by_its_name():
    assert formula({"_target_": "math.hypot"}, beta=0.1, gamma=5) == "math.hypot"


def test_layers_of_other_networks():
    net = nn.Sequential(nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2), nn.Tanh())
    found = layers(net, torch.zeros(1, 1, 4, 4))
    assert found == [
        Layer("Sigmoid", (1, 4, 4)),
        Layer("MaxPool2d", (1, 2, 2)),
        Layer("dense", (2,), 10, "Tanh"),
    ]


class Scaled(nn.Module):
    """Logits of the first two of four pixels, so steep that softmax rounds to 1."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.scale * torch.nn.functional.pad(x.flatten(1)[:, :2], (0, 1))


def test_zeros_are_counted():
    images = torch.tensor([[200, 100, 0, 0], [255, 0, 255, 0]], dtype=torch.uint8)
    test = Images(images.view(2, 1, 2, 2), torch.tensor([0, 0]))
    mild = gradient_zeros(Scaled(1.0), test, 1)
    assert (mild["images"], mild["entries"]) == (2, 4)
    assert mild["cross_entropy"] == {"counts": {"2": 2}, "all_zero": 0.0}
    steep = gradient_zeros(Scaled(1e6), test, 2)
    assert steep["cross_entropy"] == {"counts": {"4": 2}, "all_zero": 1.0}
    assert steep["margin"] == {"counts": {"2": 2}, "all_zero": 0.0}


class Rounded(Scaled):
    """Logits without a gradient."""

    def forward(self, x):
        return super().forward((x > 0.5).float())


def test_a_classifier_without_gradients_is_all_zeros():
    test = Images(torch.full((3, 1, 2, 2), 200, dtype=torch.uint8), torch.zeros(3, dtype=int))
    assert gradient_zeros(Rounded(1.0), test, 2)["margin"] == {"counts": {"4": 3}, "all_zero": 1.0}


def test_the_histogram_tells_none_and_all_from_some():
    shares = binned({"0": 1, "1": 2, "399": 3, "400": 1, "4000": 3}, 4000)
    assert shares == pytest.approx([0.1, 0.5, 0.1, *[0] * 8, 0.3])


def test_the_histogram_is_of_the_reported_runs(tmp_path):
    losses = {
        "cross_entropy": {"counts": {"784": 1, "0": 3}, "all_zero": 0.25},
        "margin": {"counts": {"0": 4}, "all_zero": 0.0},
    }
    folder = tmp_path / "eval/funn-1/gradients-0"
    folder.mkdir(parents=True)
    result = a_result(run="funn-1", encoder="funn", folder="eval/funn-1/fgsm-strict-0")
    assert gradient_histogram(tmp_path, [result], {"funn": "funn-1"}) is None
    (folder / "result.json").write_text(json.dumps({"images": 4, "entries": 784} | losses))
    assert gradient_histogram(tmp_path, [result], {"funn": "funn-2"}) is None
    entropy, margin = gradient_histogram(tmp_path, [result], {"funn": "funn-1"}).data
    assert entropy.name == "funn, cross-entropy: all zero for 25.00 %"
    assert (entropy.y[0], entropy.y[-1]) == (0.75, 0.25)
    assert (margin.y[0], margin.y[-1]) == (1, 0)
