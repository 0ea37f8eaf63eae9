"""`make bench`, third part: our AutoAttack beside its authors' code, on one classifier.

    PYTHONPATH=src .venv/bin/python -m benchmarks.autoattack [RUN] [NORM] [EPS] [IMAGES]

Both are the standard version: APGD-CE, APGD-T, FAB-T, Square, each on what the ones before left.
Their starts differ, so a few images may.
"""

import argparse
import importlib.util
import sys
import time

import torch
from torch import Tensor, nn

from funn.artifacts.files import write_json
from funn.artifacts.provenance import provenance
from funn.attacks import APGD, FAB, Square
from funn.attacks.core.norms import Norm
from funn.config import cli
from funn.config.build import build
from funn.config.compose import ROOT
from funn.data.dataset import ImageData
from funn.fast_layers import with_fast_layers
from funn.loading import find_run, load_classifier
from funn.runtime.malloc import keep_freed_memory

_NAMES = {"l2": "L2", "linf": "Linf"}


def by_authors(model: nn.Module, norm: Norm, eps: float, x: Tensor, labels: Tensor) -> Tensor:
    """Which of the images (N, C, H, W) resist the authors' attacks, bool (N,)."""
    from pyautoattack import AutoAttack

    attack = AutoAttack(model, norm=_NAMES[norm], eps=eps, seed=0, version="standard")
    adversarials, _ = attack.run_standard_evaluation(x, labels, batch_size=250)
    return right(model, adversarials, labels)


def by_ours(model: nn.Module, norm: Norm, eps: float, x: Tensor, labels: Tensor) -> Tensor:
    """Which of the images (N, C, H, W) resist our attacks, bool (N,)."""
    fast = with_fast_layers(model)
    resist = right(model, x, labels)
    for attack in (
        APGD(fast, norm, eps),
        APGD(fast, norm, eps, loss="dlr_targeted"),
        FAB(fast, norm, eps),
        Square(fast, norm, eps),
    ):
        left = torch.nonzero(resist)[:, 0]
        resist[left] = right(model, attack(x[left], labels[left]), labels[left])
    return resist


@torch.no_grad()
def right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images (N, C, H, W) a classifier gets right, bool (N,)."""
    return torch.cat([model(batch).argmax(1) for batch in images.split(500)]) == labels


def main() -> None:
    """Run both and write outputs/bench/strong.json."""
    keep_freed_memory()
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", default=str(ROOT / "outputs/latest/classic"))
    parser.add_argument("norm", nargs="?", choices=_NAMES, default="l2")
    parser.add_argument("eps", nargs="?", type=float, default=0.5)
    parser.add_argument("images", nargs="?", type=int, default=200)
    given = parser.parse_args()
    sys.path.append(str(ROOT / "outputs" / "bench" / "peers"))
    if importlib.util.find_spec("pyautoattack") is None:
        print("The authors' AutoAttack is left out: pyautoattack is not in outputs/bench/peers")
        return
    run = find_run(given.run)
    model = load_classifier(run.folder).requires_grad_(False)
    data: ImageData = build(run.result["config"]["data"], data_dir=ROOT / "data")
    x, labels = data.test.floats(given.images), data.test.labels[: given.images]
    start = time.perf_counter()
    theirs = by_authors(model, given.norm, given.eps, x, labels)
    middle = time.perf_counter()
    ours = by_ours(model, given.norm, given.eps, x, labels)
    end = time.perf_counter()
    seconds = {"ours": end - middle, "authors": middle - start}
    resist = {"ours": int(ours.sum()), "authors": int(theirs.sum())}
    print(f"\nAutoAttack, {given.norm} {given.eps:g}, {given.images} images of {run.name}\n")
    print("| code | seconds | images that resist | ratio |\n| --- | --- | --- | --- |")
    for name in seconds:
        ratio = seconds[name] / seconds["ours"]
        print(f"| {name} | {seconds[name]:.1f} | {resist[name]} | {ratio:.2f} |")
    differ = int((theirs != ours).sum())
    print(f"\n{differ} images resist one of them alone")
    path = ROOT / "outputs" / "bench" / "strong.json"
    facts = {"seconds": seconds, "resist": resist, "differ": differ, "run": run.name}
    write_json(path, vars(given) | facts | provenance())
    print(path)


if __name__ == "__main__":
    cli.run(main)
