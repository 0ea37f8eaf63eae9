"""`make bench`, third part: what it costs to make sure that a figure is of the classifier meant.

The same attack with and without what guards it (a copy of each batch, the check of the logits, the
look for gradients that are zero, the comparison of the layers that are known), in turns in one run;
and what an evaluation checks once, beside the attacks of `suite=quick` on as many images.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchattacks.attack import Attack

from funn.artifacts.files import write_json
from funn.artifacts.provenance import provenance
from funn.attacks import (
    BIM,
    FGSM,
    PGD,
    BatchedAttack,
    DeepFool,
    LocalSearch,
    SinglePixel,
    Square,
)
from funn.attacks.core.candidates import first_fooling
from funn.attacks.core.state import AttackState
from funn.attacks.minimum_norm import deepfool
from funn.attacks.pixel.incremental import PixelAttack, known_layers
from funn.config import cli
from funn.config.build import build
from funn.config.compose import ROOT
from funn.config.schema import Trial
from funn.data.dataset import ImageData
from funn.evaluation.records.verification import verify
from funn.evaluation.trials.run_attack import predict
from funn.evaluation.trials.trial import trial_facts
from funn.evaluation.victim_checks import check
from funn.evaluation.victims import Victim, trained
from funn.fast_layers import with_fast_layers
from funn.loading import Run, find_run
from funn.runtime.malloc import keep_freed_memory
from funn.training.code_behind import forget_code

_ROUNDS = 9


@contextmanager
def unguarded() -> Iterator[None]:
    """Attacks inside trust the model, as they did before anything was checked."""

    def counted_only(self: AttackState, owners: Tensor, gradients: Tensor) -> None:
        del gradients
        self.backwards.index_add_(0, owners, torch.ones_like(owners))

    def unconfirmed(*given: Any) -> Tensor:
        return first_fooling(*given[:4])

    def trusted(self: PixelAttack, images: Tensor) -> Any:
        del images
        return known_layers(self.model)

    with ExitStack() as stack:
        for place, name, instead in (
            (BatchedAttack, "get_logits", Attack.get_logits),
            (AttackState, "count_backward", counted_only),
            (PixelAttack, "known_layers", trusted),
            (deepfool, "without_direction", lambda gradients: torch.zeros(len(gradients)).bool()),
        ):
            stack.enter_context(patch.object(place, name, instead))
        stack.enter_context(patch("funn.attacks.pixel.single_pixel.first_fooling", unconfirmed))
        yield


def in_turns(first: Callable[[], Any], second: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of two functions called in turns, and the median of their ratios by turn."""
    pairs = []
    for _ in range(_ROUNDS + 1):
        ends = [time.perf_counter()]
        for function in (first, second):
            function()
            ends.append(time.perf_counter())
        pairs.append((ends[1] - ends[0], ends[2] - ends[1]))
    firsts, seconds = zip(*pairs[1:], strict=True)  # the first turn warms up
    return {
        "with": statistics.median(firsts),
        "without": statistics.median(seconds),
        "ratio": statistics.median(a / b for a, b in pairs[1:]),
    }


def guards(model: nn.Module, x: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """The attacks with and without what guards them, on images (N, C, H, W) that are right."""
    rows = []
    for name, attack, count in (
        ("FGSM", FGSM(model), 1000),
        ("BIM", BIM(model), 1000),
        ("PGD", PGD(model, steps=10), 1000),
        ("DeepFool", DeepFool(model), 300),
        ("Square", Square(model, queries=200), 300),
        ("SinglePixel", SinglePixel(model), 200),
        ("LocalSearch", LocalSearch(model, R=10), 100),
    ):

        def guarded(attack: BatchedAttack = attack, count: int = count) -> None:
            attack.run(x[:count], labels[:count])

        def bare(attack: BatchedAttack = attack, count: int = count) -> None:
            with unguarded():
                attack.run(x[:count], labels[:count])

        rows.append({"of": name, **in_turns(guarded, bare)})
    return rows


def once(run: Run, data: ImageData, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """What an evaluation checks once, beside an attack of `suite=quick` and its verification."""
    victim = trained(run, data)
    spec = {"_target_": "funn.attacks.DeepFool", "norm": "l2", "steps": 50}
    trial, test = Trial("deepfool_l2", "strict", None, spec), data.test

    def checks() -> None:
        forget_code()
        fresh = trained(run, data)
        check(fresh, data)
        with_fast_layers(fresh.model, fresh.probe)
        trial_facts(trial, fresh, test)

    def attacks() -> None:
        attack_and_verify(victim, x, labels)

    found = in_turns(checks, attacks)
    return {"of": "once, beside suite=quick", **found, "ratio": 1 + found["ratio"]}


def attack_and_verify(victim: Victim, x: Tensor, labels: Tensor) -> None:
    """The four attacks of `suite=quick`, each verified in float64."""
    for attack in (FGSM(victim.fast), BIM(victim.fast), DeepFool(victim.fast, "l2"),
                   DeepFool(victim.fast, "linf")):  # fmt: skip
        verify(victim.judge, attack.run(x, labels).adversarials, labels)


def main() -> None:
    """Measure both, and write outputs/bench/checks.json."""
    keep_freed_memory()
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", default=str(ROOT / "outputs/latest/classic"))
    run = find_run(parser.parse_args().run)
    data: ImageData = build(run.result["config"]["data"], data_dir=ROOT / "data")
    model = trained(run, data).fast
    x, labels = data.test.floats(1100), data.test.labels[:1100]
    right = predict(model, x, 500) == labels
    x, labels = x[right][:1000], labels[right][:1000]
    rows = [*guards(model, x, labels), once(run, data, x, labels)]
    print("\nWhat the checks cost\n\n| of | seconds | without checks | ratio |")
    print("| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row['of']} | {row['with']:.3f} | {row['without']:.3f} | {row['ratio']:.3f} |")
    path = ROOT / "outputs" / "bench" / "checks.json"
    write_json(path, {"checks": rows, "run": run.name, **provenance()})
    print(path)


if __name__ == "__main__":
    cli.run(main)
