"""PGD on features, and PGD that climbs on, where the way is known."""

import pytest
import torch
from torch import nn

from funn.attacks import PGD, FeaturePGD


class Plane(nn.Module):
    """Two pixels; the encoder stretches the first threefold, the head looks at the first alone."""

    def __init__(self, saturated: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        self.saturated = saturated
        with torch.no_grad():
            self.encoder[1].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = self.encoder(x)[:, 0] - 1.5  # 0 where the first pixel is 0.5
        if self.saturated:  # the gradient is exactly zero
            margin = margin.detach() + 0 * margin
        return torch.stack([margin, -margin], dim=1)


def image(first: float) -> torch.Tensor:
    return torch.tensor([[[[first, 0.5]]]])


def test_the_features_are_moved_along_what_the_encoder_stretches():
    result = FeaturePGD(Plane(), "l2", 0.2, steps=40).run(image(0.75), torch.tensor([0]))
    moved = (result.adversarials - image(0.75)).flatten()
    assert not result.success.any()
    assert moved[0].abs() > 0.99 * moved.norm()
    assert moved.norm() == pytest.approx(0.2, abs=1e-4)


def test_a_head_that_hides_its_gradient_does_not_hide_the_features():
    model, label = Plane(saturated=True), torch.tensor([0])
    blind = PGD(model, "l2", 0.1, steps=20, restarts=10).run(image(0.595), label)
    seeing = FeaturePGD(model, "l2", 0.1, steps=20, restarts=10).run(image(0.595), label)
    assert not blind.success.any()
    assert seeing.success.all()


def test_the_hook_is_gone_afterwards():
    model = Plane()
    FeaturePGD(model, "linf", 0.1, steps=2).run(image(0.9), torch.tensor([0]))
    assert not model.encoder._forward_hooks


def test_a_model_without_an_encoder_is_refused():
    with pytest.raises(ValueError, match="has no encoder: use pgd_l2"):
        FeaturePGD(nn.Flatten())


def test_climbing_on_ends_where_the_ball_does():
    """The border is 0.1 away; an attack that stops ends behind it, one that does not at 0.4."""
    label = torch.tensor([0])
    stopped = PGD(Plane(), "l2", 0.4, steps=40).run(image(0.6), label)
    climbed = PGD(Plane(), "l2", 0.4, steps=40, stops=False).run(image(0.6), label)
    assert stopped.success.all()
    assert climbed.success.all()
    distance = [float((result.adversarials - image(0.6)).norm()) for result in (stopped, climbed)]
    assert distance[0] < 0.39
    assert distance[1] == pytest.approx(0.4, abs=1e-4)


def test_what_climbs_on_has_one_start():
    with pytest.raises(ValueError, match="restarts must be 1"):
        PGD(Plane(), restarts=2, stops=False)


def test_an_encoder_that_is_asked_twice_gives_each_image_its_own_features():
    class Mirrored(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(inplace=True))
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.encoder(x)) + self.last(self.encoder(x.flip(3)))

    torch.manual_seed(0)
    model, x = Mirrored().eval(), torch.rand(20, 1, 4, 4)
    labels = model(x).argmax(1)
    whole, parts = FeaturePGD(model, "l2", 0.5, 5), FeaturePGD(model, "l2", 0.5, 5)
    parts.batch_size = 7
    found = [attack.run(x, labels).adversarials for attack in (whole, parts)]
    assert parts._clean.shape == (20, 8)
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    assert not model._forward_hooks
