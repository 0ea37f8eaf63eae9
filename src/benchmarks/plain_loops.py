"""Trainings as loops written out by hand, in plain torch: the oracle of the tests and the bench."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from funn.data.batches import TensorBatches
from funn.data.images import to_unit
from funn.defenses.funn_pgd.info_nce import Views, most_alike
from funn.defenses.funn_pgd.training import one_cycle
from funn.method.game import Phase
from funn.method.networks import AutoEncoder
from funn.runtime.seeding import generator

Tick = Callable[[], None]


def _no_tick() -> None:
    pass


def eager_game(
    attacker: AutoEncoder,
    defender: AutoEncoder,
    batches: TensorBatches,
    phase: Phase,
    *,
    epochs: int,
    learning_rates: tuple[float, float],
    beta: float,
    gamma: float,
    seed: int,
    attacked_init: bool = False,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    tick: Tick = _no_tick,
) -> None:
    """The two-player training (see `funn.method.game`); `tick` is called before each batch."""
    if phase == "adversarial":
        attacker.encoder.requires_grad_(False)
        defender.generator.requires_grad_(False)
    free = [[p for p in player.parameters() if p.requires_grad] for player in (attacker, defender)]
    optimizers = [
        optimizer(parameters, lr=lr) for parameters, lr in zip(free, learning_rates, strict=True)
    ]

    def step(player: int, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, free[player])
        for parameter, gradient in zip(free[player], gradients, strict=True):
            parameter.grad = gradient
        optimizers[player].step()

    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for number, (x, _) in enumerate(batches):
            tick()
            draw = generator(seed, phase, epoch, number)
            z = torch.rand(2, len(x), attacker.noise, generator=draw)
            attacked = attacker(x, z[0])
            loss = F.mse_loss(attacked, x)
            if phase == "adversarial":
                error = F.mse_loss(x, defender(attacked))
                loss = loss + gamma * torch.relu(beta - error)
            step(0, loss)
            given = x
            if phase == "adversarial" or attacked_init:
                with torch.no_grad():
                    given = attacker(x, z[1])
            step(1, F.mse_loss(x, defender(given)))


def eager_head(
    head: nn.Module, batches: TensorBatches, *, lr: float, tick: Tick = _no_tick
) -> None:
    """An epoch of the head's training (see `funn.method.classifier`)."""
    optimizer = torch.optim.Adam(head.parameters(), lr)
    for features, labels in batches:
        tick()
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimizer.step()


def eager_contrast(
    encoder: nn.Module,
    images: Tensor,
    batches: TensorBatches,
    *,
    views: Views,
    temperature: float,
    neighbours: int,
    eps: float,
    steps: int,
    lr: float,
    seed: int,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    tick: Tick = _no_tick,
) -> None:
    """An epoch of `defense=funn_pgd` (see `funn.defenses.funn_pgd.training`) with one L2 ball."""
    with torch.no_grad():
        features = torch.cat([encoder(to_unit(part)) for part in images.split(1000)])
    alike = most_alike(features, neighbours)
    adam = optimizer(encoder.parameters(), lr=lr)
    for number, (x, places) in enumerate(batches):
        tick()
        draw = generator(seed, "sample", 0, number)
        columns = torch.randint(neighbours + 1, (len(x),), generator=draw)
        mates = to_unit(images[alike[places, columns]])
        view, others = views.draw(x, draw), views.draw(mates, draw)
        keys = F.normalize(encoder(others), dim=1)
        rows = torch.arange(len(x))

        def losses(given: Tensor, keys: Tensor = keys, rows: Tensor = rows) -> Tensor:
            logits = F.normalize(encoder(given), dim=1) @ keys.T / temperature
            return F.cross_entropy(logits, rows, reduction="none")

        direction = torch.randn(view.shape, generator=draw)
        radius = torch.rand(len(view), generator=draw) ** (1 / view[0].numel())
        attacked = (view + eps * radius[:, None, None, None] * _unit(direction)).clamp(0, 1)
        for _ in range(steps):
            attacked.requires_grad_()
            (gradient,) = torch.autograd.grad(losses(attacked).sum(), attacked)
            moved = attacked.detach() + 2.5 * eps / steps * _unit(gradient) - view
            length = moved.flatten(1).norm(dim=1)[:, None, None, None]
            moved = moved * torch.where(length > eps, eps / length, 1.0)
            attacked = (view + moved).clamp(0, 1)
        adam.param_groups[0]["lr"] = one_cycle(number / len(batches), lr)
        adam.zero_grad()
        losses(attacked).mean().backward()
        adam.step()


def _unit(x: Tensor) -> Tensor:
    length: Tensor = x.flatten(1).norm(dim=1)
    return x / length.clamp(min=1e-30)[:, None, None, None]
