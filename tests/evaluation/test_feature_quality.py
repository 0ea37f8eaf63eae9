"""Neighbours, retrieval and a probe on features whose answers are known."""

import json

import pytest
import torch
from torch import nn

from funn.data.images import Images
from funn.evaluation.feature_quality import feature_uses, linear_probe, moved, nearest
from funn.runtime.seeding import generator


class Corner(nn.Module):
    """Features: twice the two left pixels of an image (N, 1, 2, 2)."""

    def forward(self, x):
        return 2 * x[:, 0, :, 0]


def test_the_nearest_of_the_gallery():
    gallery = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    queries = torch.tensor([[0.9, 0.0], [0.0, 2.0]])
    assert nearest(queries, gallery, 2).tolist() == [[1, 0], [2, 0]]


def test_the_attack_moves_the_features_alone_and_stays_in_its_ball():
    x = torch.full((4, 1, 2, 2), 0.5)
    found = moved(Corner(), x, "l2", 0.25, 20)
    away = (found - x).flatten(1)
    assert torch.allclose(away.norm(dim=1), torch.tensor(0.25), rtol=1e-3)
    # A move of the right pixels would be wasted.
    assert away[:, [1, 3]].abs().max() < 0.05


def test_a_linear_probe_separates_what_a_line_separates():
    features = torch.randn(300, 3, generator=generator("features"))
    labels = (features @ torch.tensor([1.0, -2.0, 0.5]) > 0).long()
    probe = linear_probe(features, labels)
    assert (probe(features).argmax(1) == labels).float().mean() > 0.95


def now(name, work):
    found = work()
    assert json.loads(json.dumps(found)) == found  # a note is read from a file
    return found


def test_an_attack_larger_than_the_gap_undoes_every_use():
    draw = generator("images")
    images = (255 * torch.rand(200, 1, 2, 2, generator=draw)).byte()
    images[:100, 0, :, 0] //= 4  # class 0 is dark on the left, class 1 light
    images[100:, 0, :, 0] = 255 - images[100:, 0, :, 0] // 4
    data = Images(images, torch.arange(200) // 100)
    settings = {"norm": "linf", "steps": 20, "neighbours": 5}
    small = feature_uses(Corner(), data, data, now, eps=0.01, **settings)
    large = feature_uses(Corner(), data, data, now, eps=0.9, **settings)
    for use in ("neighbours", "retrieval", "probe"):
        assert small[use]["clean"] == large[use]["clean"] == pytest.approx(1)
        assert small[use]["attacked"] > 0.9
        assert large[use]["attacked"] < 0.6
