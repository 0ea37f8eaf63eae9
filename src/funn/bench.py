"""`make bench`: our path against plain code with the same mathematics, in one run.

The ratio is what counts: machines are shared and noisy. Every pair is timed in turns.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch import Callback
from torch import Tensor, nn
from tqdm import tqdm

from funn.classifier import HeadTraining
from funn.config import ROOT
from funn.data import TensorBatches
from funn.files import write_json
from funn.fitting import fit
from funn.memory import keep_freed_memory
from funn.networks import AutoEncoder, DenseAutoEncoder, Head
from funn.objectives import constrained
from funn.players import PlayerPhase, Players
from funn.provenance import provenance
from funn.schema import TrainerConfig
from funn.seeding import generator
from funn.stages import Fit

_ROUNDS = 5
_BATCHES = {"init": 60, "adversarial": 60, "classifier": 400}
_WARM = 10  # batches before the clock starts
_LR = 1e-4


def eager_game(
    attacker: AutoEncoder,
    defender: AutoEncoder,
    batches: TensorBatches,
    phase: PlayerPhase,
    *,
    epochs: int,
    learning_rates: tuple[float, float],
    beta: float,
    gamma: float,
    seed: int,
    attacked_init: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """The two-player training as a loop written out by hand: the oracle of tests and bench."""
    if phase == "adversarial":
        attacker.encoder.requires_grad_(False)
        defender.generator.requires_grad_(False)
    free = [[p for p in player.parameters() if p.requires_grad] for player in (attacker, defender)]
    optimizers = [
        torch.optim.Adam(parameters, lr)
        for parameters, lr in zip(free, learning_rates, strict=True)
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
            loss = ((attacked - x) ** 2).mean()
            if phase == "adversarial":
                error = ((x - defender(attacked)) ** 2).mean()
                loss = loss + gamma * torch.relu(beta - error)
            step(0, loss)
            given = x
            if phase == "adversarial" or attacked_init:
                with torch.no_grad():
                    given = attacker(x, z[1])
            step(1, ((x - defender(given)) ** 2).mean())


def eager_head(head: nn.Module, batches: TensorBatches, tick: Callable[[], None]) -> None:
    """The training of the head as a loop written out by hand."""
    optimizer = torch.optim.Adam(head.parameters(), _LR)
    for features, labels in batches:
        tick()
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimizer.step()


class _Clock(Callback):
    """Seconds a batch, from the starts of batches after the warm ones."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def tick(self) -> None:
        self.starts.append(time.perf_counter())

    def on_train_batch_start(self, *arguments: object) -> None:
        del arguments
        self.tick()

    def per_batch(self) -> float:
        """Seconds a batch."""
        return (self.starts[-1] - self.starts[_WARM]) / (len(self.starts) - 1 - _WARM)


def _networks() -> tuple[AutoEncoder, AutoEncoder]:
    shape, channels = (1, 28, 28), [16, 32]
    return DenseAutoEncoder(shape, channels, 64, 16), DenseAutoEncoder(shape, channels, 64)


def _ours(parts: Fit) -> float:
    clock = _Clock()
    parts.callbacks = [*parts.callbacks, clock]
    with tempfile.TemporaryDirectory() as folder:
        fit(parts, Path(folder), TrainerConfig(accelerator="cpu", devices=1), [], "bench")
    return clock.per_batch()


def time_players(phase: PlayerPhase) -> tuple[float, float]:
    """Seconds a batch of 128 of one phase: ours, by hand."""
    count = _BATCHES[phase]
    images = torch.randint(0, 256, (128 * count, 1, 28, 28), dtype=torch.uint8)
    batches = TensorBatches(images, torch.arange(len(images)), 128, 0)
    attacker, defender = _networks()
    players = Players(
        ({}, attacker),
        ({}, defender),
        phase=phase,
        objective=partial(constrained, beta=0.01, gamma=5.0),
        defender_input="clean",
        attacker_lr=_LR,
        defender_lr=_LR,
        beta=0.01,
        seed=0,
        images=images,
        probe=torch.zeros(1, 1, 28, 28),
        log_every=50,
    )
    ours = _ours(Fit(players, batches, 1))
    clock = _Clock()
    eager_game(
        *_networks(), batches, phase, epochs=1, learning_rates=(_LR, _LR), beta=0.01, gamma=5.0,
        seed=0, tick=clock.tick,
    )  # fmt: skip
    return ours, clock.per_batch()


def time_classifier() -> tuple[float, float]:
    """Seconds a batch of 128 features: ours, by hand."""
    count = 128 * _BATCHES["classifier"]
    features, labels = torch.randn(count, 64), torch.randint(0, 10, (count,))
    batches = TensorBatches(features, labels, 128, 0)
    head, other = (Head(64, 10, [64]) for _ in range(2))
    ours = _ours(Fit(HeadTraining(head, ({}, head), lr=_LR, margin=0.0, log_every=50), batches, 1))
    clock = _Clock()
    eager_head(other, batches, clock.tick)
    return ours, clock.per_batch()


def compare(name: str, measure: Callable[[], tuple[float, float]]) -> dict[str, float]:
    """Time a pair in turns and return the medians, in milliseconds, and their ratio."""
    rounds: Iterable[int] = tqdm(range(_ROUNDS), desc=name)
    ours, by_hand = zip(*(measure() for _ in rounds), strict=True)
    ratio = statistics.median(a / b for a, b in zip(ours, by_hand, strict=True))
    medians = [1000 * statistics.median(times) for times in (ours, by_hand)]
    return {"ours_ms": medians[0], "by_hand_ms": medians[1], "ratio": ratio}


def main() -> None:
    """Run every comparison, print the table, and write outputs/bench/bench.json."""
    keep_freed_memory()
    pairs: dict[str, Callable[[], tuple[float, float]]] = {
        "init": partial(time_players, "init"),
        "adversarial": partial(time_players, "adversarial"),
        "classifier": time_classifier,
    }
    rows = {name: compare(name, measure) for name, measure in pairs.items()}
    print("\n| phase | ours, ms a batch | by hand, ms a batch | ratio |\n| --- | --- | --- | --- |")
    for name, row in rows.items():
        print(f"| {name} | {row['ours_ms']:.2f} | {row['by_hand_ms']:.2f} | {row['ratio']:.3f} |")
    path = ROOT / "outputs" / "bench" / "bench.json"
    write_json(path, {"training": rows, **provenance()})
    print(path)


if __name__ == "__main__":
    main()
