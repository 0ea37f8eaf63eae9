"""`make bench`: our path against plain code with the same mathematics, in one run.

The ratio is what counts: machines are shared and noisy. Every pair is timed in turns. The plain
code runs in a process of its own, as a script would: what a command of ours sets for its process,
such as `funn.memory`, is part of our path. Beside the times stands the least that a step's products
of matrices would take, at the rate of one large product.
"""

import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
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
_BATCH = 128
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
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """The two-player training as a loop written out by hand: the oracle of tests and bench."""
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


def _image_batches(count: int) -> TensorBatches:
    images = torch.randint(0, 256, (_BATCH * count, 1, 28, 28), dtype=torch.uint8)
    return TensorBatches(images, torch.arange(len(images)), _BATCH, 0)


def _feature_batches(count: int) -> TensorBatches:
    features, labels = torch.randn(_BATCH * count, 64), torch.randint(0, 10, (_BATCH * count,))
    return TensorBatches(features, labels, _BATCH, 0)


def our_players(phase: PlayerPhase) -> float:
    """Seconds a batch of one phase of the game."""
    batches = _image_batches(_BATCHES[phase])
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
        images=batches.inputs,
        probe=torch.zeros(1, 1, 28, 28),
        log_every=50,
    )
    return _ours(Fit(players, batches, 1))


def players_by_hand(phase: PlayerPhase, count: int | None = None) -> float:
    """Seconds a batch of one phase of the game, as plain code."""
    clock = _Clock()
    eager_game(
        *_networks(), _image_batches(count or _BATCHES[phase]), phase, epochs=1,
        learning_rates=(_LR, _LR), beta=0.01, gamma=5.0, seed=0, tick=clock.tick,
    )  # fmt: skip
    return clock.per_batch()


def our_classifier() -> float:
    """Seconds a batch of features of the head's training."""
    head = Head(64, 10, [64])
    training = HeadTraining(head, ({}, head), lr=_LR, margin=0.0, log_every=50)
    return _ours(Fit(training, _feature_batches(_BATCHES["classifier"]), 1))


def classifier_by_hand(count: int | None = None) -> float:
    """Seconds a batch of features of the head's training, as plain code."""
    clock = _Clock()
    eager_head(Head(64, 10, [64]), _feature_batches(count or _BATCHES["classifier"]), clock.tick)
    return clock.per_batch()


def product_rate() -> float:
    """Floating point operations a second of one large product of matrices."""
    a, b = torch.randn(2, 1024, 1024)
    best = math.inf
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def operations(by_hand: Callable[[int], float]) -> float:
    """Floating point operations of the products of matrices of one batch, as plain code does it."""
    batches = _WARM + 2
    with FlopCounterMode(display=False) as counter:
        by_hand(batches)
    return float(counter.get_total_flops()) / batches


def compare(
    name: str, ours: Callable[[], float], by_hand: Callable[..., float], plain: Executor
) -> dict[str, float]:
    """Time a pair in turns, the second in a process of its own.

    Returns:
        The medians and the limit in milliseconds a batch, and `speedup`, the median of the ratios.
    """
    times = [(ours(), plain.submit(by_hand).result()) for _ in tqdm(range(_ROUNDS), desc=name)]
    return {
        "ours_ms": 1000 * statistics.median(mine for mine, _ in times),
        "by_hand_ms": 1000 * statistics.median(plainly for _, plainly in times),
        "limit_ms": 1000 * operations(by_hand) / product_rate(),
        "speedup": statistics.median(plainly / mine for mine, plainly in times),
    }


def main() -> None:
    """Run every comparison, print the table, and write outputs/bench/bench.json."""
    keep_freed_memory()
    pairs: dict[str, tuple[Callable[[], float], Callable[..., float]]] = {
        "init": (partial(our_players, "init"), partial(players_by_hand, "init")),
        "adversarial": (
            partial(our_players, "adversarial"),
            partial(players_by_hand, "adversarial"),
        ),
        "classifier": (our_classifier, classifier_by_hand),
    }
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as plain:
        rows = {name: compare(name, *pair, plain) for name, pair in pairs.items()}
    print("\n| phase | ours, ms a batch | by hand | the products alone | speedup |")
    print("| --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        print(
            f"| {name} | {row['ours_ms']:.2f} | {row['by_hand_ms']:.2f} | {row['limit_ms']:.2f} "
            f"| {row['speedup']:.2f} |"
        )
    path = ROOT / "outputs" / "bench" / "bench.json"
    write_json(path, {"training": rows, **provenance()})
    print(path)


if __name__ == "__main__":
    main()
