"""Kill a training and its evaluations at random moments, many times, and compare how all ends.

python tests/commands/soak.py --kills 50

The commands are real, on generated digits: every phase of the training, a suite of attacks, and the
strongest attacks with small budgets. Each is killed (SIGKILL) at a moment drawn uniformly over the
time that it takes, typed again, killed again, until it ends. Then every checkpoint, log and record
is compared with those of an uninterrupted run; and it begins anew in an empty folder.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT, SMALL

BUDGETS = [
    f"suite.cascade.{norm}.attacks.{attack}"
    for norm in ("l2", "linf")
    for attack in (
        "apgd_ce.steps=10", "apgd_t.steps=10", "apgd_t.targets=3", "fab_t.steps=10",
        "fab_t.targets=3", "square.queries=50",
    )
]  # fmt: skip
EVERY = (
    "**/model.ckpt", "**/metrics.csv", "**/records.parquet", "**/radii.parquet", "**/epoch-*.png",
)  # fmt: skip


def commands(folder: Path) -> Iterator[list[str]]:
    """The commands of one round, in order, with outputs in a folder."""
    run, output = f"run={folder}/latest/funn", f"output_dir={folder}"
    yield ["train.py", *SMALL, "init.epochs=4", "adversarial.epochs=8", output]
    yield ["evaluate.py", run, "suite=table1", "suite.attacks.local_search.R=5", "logger=csv",
           output]  # fmt: skip
    yield ["evaluate.py", run, "suite=strong", *BUDGETS, "suite.cascade.l2.radii=[0.3]",
           "suite.cascade.linf.radii=[0.03]", "logger=csv", output]  # fmt: skip


def state(folder: Path) -> dict[str, str]:
    """What a round ends with: the SHA-256 of every file that holds a result."""
    files = {path for pattern in EVERY for path in folder.glob(pattern) if path.is_file()}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def start(command: list[str]) -> "subprocess.Popen[str]":
    """Start a command."""
    script, *overrides = command
    return subprocess.Popen(
        [sys.executable, str(ROOT / "src" / script), *overrides],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", seconds: float | None = None) -> bool:
    """Whether a command ended, and well, within so many seconds; else it is killed."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"a command ended with {process.returncode}:\n{errors}")
    return True


def uninterrupted(folder: Path) -> list[float]:
    """Run one round and return the seconds that each command took."""
    seconds = []
    for command in commands(folder):
        begun = time.monotonic()
        finish(start(command))
        seconds.append(time.monotonic() - begun)
    return seconds


def interrupted(folder: Path, seconds: list[float], draw: random.Random, most: int) -> int:
    """Run one round with at most so many kills, and return how many there were."""
    kills = 0
    for command, usual in zip(commands(folder), seconds, strict=True):
        while not finish(start(command), draw.uniform(0, usual) if kills < most else None):
            kills += 1
    return kills


def soak(kills: int, seed: int, folder: Path) -> list[str]:
    """Kill so many times, in as many rounds as that takes.

    Returns:
        The files that differ, empty if nothing does.
    """
    draw = random.Random(seed)
    seconds = uninterrupted(folder / "uninterrupted")
    expected = state(folder / "uninterrupted")
    print(f"uninterrupted: {', '.join(f'{s:.0f} s' for s in seconds)}, {len(expected)} files")
    done, rounds, wrong = 0, 0, []
    while done < kills:
        rounds += 1
        there = folder / f"round-{rounds}"
        count = interrupted(there, seconds, draw, kills - done)
        done += count
        found = state(there)
        differ = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        wrong += [f"{there.name}/{name}" for name in differ]
        print(f"round {rounds}: {count} kills, {len(differ)} files differ", flush=True)
    print(f"{done} kills in {rounds} rounds: {len(wrong)} files lost or changed")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit("\n".join(soak(options.kills, options.seed, Path(scratch))) or 0)
