"""`make bench`: our path against plain code with the same mathematics, in one run.

The ratio is what counts: machines are shared and noisy. Every pair is timed in turns. The plain
code runs in a process of its own, as a script would: what a command of ours sets for its process,
such as `funn.runtime.malloc`, is part of our path. Beside them stands the least time (`limits`).
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.profiler import ProfilerActivity
from tqdm import tqdm

from benchmarks.limits import operations, product_rate
from benchmarks.plain_loops import eager_contrast, eager_game, eager_head
from funn.artifacts.files import write_json
from funn.artifacts.provenance import provenance
from funn.config.compose import ROOT
from funn.config.schema import TrainerConfig
from funn.data.batches import TensorBatches
from funn.defenses.funn_pgd.attacker import Ball
from funn.defenses.funn_pgd.info_nce import Contrast, Views
from funn.defenses.funn_pgd.training import EncoderTraining
from funn.method.classifier import HeadTraining
from funn.method.game import AdversarialGame, Phase
from funn.method.networks import AutoEncoder, DenseAutoEncoder, Head
from funn.method.objectives import AttackerLoss, constrained
from funn.runtime.malloc import keep_freed_memory
from funn.training.checkpoint import Saved
from funn.training.fit import fit
from funn.training.stage import Fit

_ROUNDS = 5
_BATCH = 128
_BATCHES, _HEAD_BATCHES = 60, 400
_WARM, _OPERATORS = 10, 12  # batches before the clock starts; operators in the profile
_LR = 1e-4
_GAME: dict[str, Any] = {"beta": 0.01, "gamma": 5.0}
_BALL: dict[str, Any] = {"eps": 3.0, "steps": 5}
_CONTRAST: dict[str, Any] = {"views": Views(7, 1, 0.05), "temperature": 0.2, "neighbours": 10}
# A sweep's two phases are as long, one to the other, as 9 and 31 epochs.
_BETAS, _SWEEP, _SWEEP_ROUNDS = 8, {"init": 72, "adversarial": 248}, 2


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


def _networks(width: int = 1) -> tuple[AutoEncoder, AutoEncoder]:
    shape, channels, features = (1, 28, 28), [16 * width, 32 * width], 64 * width
    return (
        DenseAutoEncoder(shape, channels, features, 16),
        DenseAutoEncoder(shape, channels, features),
    )


def train(parts: Fit) -> None:
    """Train as a command does, in a folder that is not kept."""
    with tempfile.TemporaryDirectory() as folder:
        fit(parts, Path(folder), TrainerConfig(accelerator="cpu", devices=1), [], "bench")


def timed(parts: Fit) -> float:
    """Seconds a batch."""
    clock = _Clock()
    parts.callbacks = [*parts.callbacks, clock]
    train(parts)
    return clock.per_batch()


def _images(count: int) -> TensorBatches:
    images = torch.randint(0, 256, (_BATCH * count, 1, 28, 28), dtype=torch.uint8)
    return TensorBatches(images, torch.arange(len(images)), _BATCH, 0)


def _features(count: int) -> TensorBatches:
    features, labels = torch.randn(_BATCH * count, 64), torch.randint(0, 10, (_BATCH * count,))
    return TensorBatches(features, labels, _BATCH, 0)


def game(phase: Phase, images: TensorBatches, width: int = 1) -> Fit:
    """One epoch of one phase of the game, by networks of so many times the paper's channels."""
    players = AdversarialGame(
        *(Saved({}, network) for network in _networks(width)),
        phase=phase,
        loss=AttackerLoss(partial(constrained, beta=_GAME["beta"], gamma=_GAME["gamma"])),
        defender_input="clean",
        learning_rates=(_LR, _LR),
        beta=_GAME["beta"],
        seed=0,
        images=images.inputs,
    )
    return Fit(players, images, 1)


def contrast(images: TensorBatches, width: int = 2) -> Fit:
    """One epoch of the second phase of `defense=funn_pgd`."""
    training = EncoderTraining(
        Saved({}, _networks(width)[1]),
        aim=Contrast(images.inputs, **_CONTRAST),
        balls=[Ball("l2", **_BALL)],
        clean_weight=0.0,
        lr=_LR,
        seed=0,
        probe=torch.zeros(2, 1, 28, 28),
    )
    return Fit(training, images, 1)


def our_players(phase: Phase, batches: int = _BATCHES) -> float:
    """Seconds a batch of one phase of the game."""
    return timed(game(phase, _images(batches)))


def players_by_hand(phase: Phase, batches: int = _BATCHES) -> float:
    """Seconds a batch of one phase of the game, as plain code."""
    clock, rates = _Clock(), (_LR, _LR)
    eager_game(
        *_networks(), _images(batches), phase, epochs=1, learning_rates=rates, seed=0,
        tick=clock.tick, **_GAME,
    )  # fmt: skip
    return clock.per_batch()


def our_contrast(batches: int = _BATCHES) -> float:
    """Seconds a batch of the second phase of `defense=funn_pgd`."""
    return timed(contrast(_images(batches)))


def contrast_by_hand(batches: int = _BATCHES) -> float:
    """Seconds a batch of the second phase of `defense=funn_pgd`, as plain code."""
    clock, images = _Clock(), _images(batches)
    eager_contrast(
        _networks(2)[1].encoder,
        images.inputs,
        images,
        lr=_LR,
        seed=0,
        tick=clock.tick,
        **_BALL,
        **_CONTRAST,
    )
    return clock.per_batch()


def our_head(batches: int = _HEAD_BATCHES) -> float:
    """Seconds a batch of features of the head's training."""
    head = Head(64, 10, [64])
    training = HeadTraining(head, Saved({}, head), lr=_LR, margin=0.0)
    return timed(Fit(training, _features(batches), 1))


def head_by_hand(batches: int = _HEAD_BATCHES) -> float:
    """Seconds a batch of features of the head's training, as plain code."""
    clock = _Clock()
    eager_head(Head(64, 10, [64]), _features(batches), lr=_LR, tick=clock.tick)
    return clock.per_batch()


def our_sweep(workers: Sequence[Executor]) -> float:
    """Seconds of a sweep of betas: one init phase, then each beta's game, in two processes."""
    start = time.perf_counter()
    workers[0].submit(our_players, "init", _SWEEP["init"]).result()
    games = [
        workers[place % len(workers)].submit(our_players, "adversarial", _SWEEP["adversarial"])
        for place in range(_BETAS)
    ]
    _ = [each.result() for each in games]
    return time.perf_counter() - start


def sweep_by_hand() -> float:
    """Seconds of the same games as runs one after the other, each with its own init phase."""
    start = time.perf_counter()
    for _ in range(_BETAS):
        for phase in ("init", "adversarial"):
            players_by_hand(phase, _SWEEP[phase])
    return time.perf_counter() - start


def profile(phase: Phase) -> list[dict[str, Any]]:
    """The operators that take longest in our training, with milliseconds a batch of their own."""
    parts = game(phase, _images(_BATCHES))
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        train(parts)
    events = [event for event in profiler.key_averages() if event.self_cpu_time_total]
    events.sort(key=lambda event: -event.self_cpu_time_total)
    return [
        {
            "operator": event.key.removeprefix("aten::"),
            "calls": event.count / _BATCHES,
            "ms": event.self_cpu_time_total / 1000 / _BATCHES,
        }
        for event in events[:_OPERATORS]
    ]


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


def compare_sweeps(plain: Executor) -> dict[str, float]:
    """Time the sweep of betas in two processes of one thread, against runs one after the other."""
    method = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, method, _worker) as first,
        ProcessPoolExecutor(1, method, _worker) as second,
    ):
        workers = (first, second)
        for worker in workers:
            worker.submit(our_players, "adversarial", _WARM + 2).result()
        times = [
            (our_sweep(workers), plain.submit(sweep_by_hand).result())
            for _ in tqdm(range(_SWEEP_ROUNDS), desc=f"sweep of {_BETAS} betas")
        ]
    return {
        "ours_s": statistics.median(mine for mine, _ in times),
        "by_hand_s": statistics.median(plainly for _, plainly in times),
        "speedup": statistics.median(plainly / mine for mine, plainly in times),
    }


def _worker() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)


def main() -> None:
    """Run every comparison, print the table, and write outputs/bench/bench.json."""
    keep_freed_memory()
    pairs: dict[str, tuple[Callable[[], float], Callable[..., float]]] = {
        "init": (partial(our_players, "init"), partial(players_by_hand, "init")),
        "adversarial": (
            partial(our_players, "adversarial"),
            partial(players_by_hand, "adversarial"),
        ),
        "funn_pgd": (our_contrast, contrast_by_hand),
        "classifier": (our_head, head_by_hand),
    }
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as plain:
        rows = {name: compare(name, *pair, plain) for name, pair in pairs.items()}
        sweep = compare_sweeps(plain)
    operators = profile("adversarial")
    print("\n| training | ours, ms a batch | by hand | the products alone | speedup |")
    print("| --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        print(
            f"| {name} | {row['ours_ms']:.2f} | {row['by_hand_ms']:.2f} | {row['limit_ms']:.2f} "
            f"| {row['speedup']:.2f} |"
        )
    print(
        f"\nA sweep of {_BETAS} betas, {_SWEEP['init']} and {_SWEEP['adversarial']} batches each: "
        f"{sweep['ours_s']:.1f} s, one after the other by hand {sweep['by_hand_s']:.1f} s, "
        f"speedup {sweep['speedup']:.2f}"
    )
    print(
        "\n| operator, of our adversarial phase | calls a batch | ms a batch |\n| --- | --- | --- |"
    )
    for row in operators:
        print(f"| {row['operator']} | {row['calls']:.1f} | {row['ms']:.2f} |")
    path = ROOT / "outputs" / "bench" / "bench.json"
    content = {"training": rows, "sweep": sweep, "profile": operators}
    write_json(path, content | provenance())
    print(path)


if __name__ == "__main__":
    main()
