"""How well the two players of a run reconstruct test images: the figures next to beta."""

from typing import Any

import torch

from funn.checkpoint import load
from funn.data import Images
from funn.loading import Run
from funn.networks import AutoEncoder
from funn.objectives import mse
from funn.seeding import generator

_BATCH = 1000


def reconstruction(run: Run, test: Images) -> dict[str, Any]:
    """Measure the players of each stage before the classifier on test images.

    Returns:
        For each stage, as mse over pixels and images: `attacker` mse(A(x), x), `defender`
        mse(D(x), x), `defender_on_attacked` mse(D(A(x)), x); and the number of images.
    """
    figures: dict[str, Any] = {"images": len(test.labels)}
    for parent in run.result["parents"]:
        networks = load(run.train_root / parent["path"])
        if {"attacker", "defender"} <= networks.keys():
            attacker, defender = networks["attacker"].module, networks["defender"].module
            assert isinstance(attacker, AutoEncoder)
            assert isinstance(defender, AutoEncoder)
            figures[parent["stage"]] = measure(attacker, defender, test.floats())
    return figures


@torch.no_grad()
def measure(attacker: AutoEncoder, defender: AutoEncoder, x: torch.Tensor) -> dict[str, float]:
    """Return the three errors of `reconstruction` for one pair of players on x (N, C, H, W)."""
    draw = generator("reconstruction")
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in x.split(_BATCH):
        attacked = attacker(batch, torch.rand(len(batch), attacker.noise, generator=draw))
        restored = (attacked, defender(batch), defender(attacked))
        sums += len(batch) * torch.stack([mse(output, batch) for output in restored]).double()
    names = ("attacker", "defender", "defender_on_attacked")
    return dict(zip(names, (sums / len(x)).tolist(), strict=True))
