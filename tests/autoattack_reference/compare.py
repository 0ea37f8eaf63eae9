"""Robust accuracy under the authors' AutoAttack and under ours, of one classifier.

With a folder that holds their code, as in make_reference.py:

    PYTHONPATH=src:FOLDER .venv/bin/python tests/autoattack_reference/compare.py RUN NORM EPS IMAGES

Both are the standard version: APGD-CE, APGD-T, FAB-T, Square, each on what the ones before left.
Their starts differ, so a few images may. Takes some minutes; the last line sums up.
"""

import sys
import time

import torch
from pyautoattack import AutoAttack

from funn import load_classifier
from funn.attacks import APGD, FAB, Square
from funn.config import ROOT
from funn.fast_layers import with_fast_layers
from funn.idx_files import MNIST

NAMES = {"l2": "L2", "linf": "Linf"}


def main(run, norm, eps, images):
    """Print both robust accuracies, and on how many images the two disagree."""
    eps, images = float(eps), int(images)
    test = MNIST(ROOT / "data").load()[1]
    x, labels = test.floats(images), test.labels[:images]
    model = with_fast_layers(load_classifier(run)).requires_grad_(False)
    start = time.perf_counter()
    attack = AutoAttack(model, norm=NAMES[norm], eps=eps, seed=0, version="standard")
    adversarials, _ = attack.run_standard_evaluation(x, labels, batch_size=250)
    theirs = right(model, adversarials, labels)
    middle = time.perf_counter()
    ours = right(model, x, labels)
    for make in (
        APGD(model, norm, eps),
        APGD(model, norm, eps, loss="dlr_targeted"),
        FAB(model, norm, eps),
        Square(model, norm, eps),
    ):
        left = torch.nonzero(ours)[:, 0]
        ours[left] = right(model, make(x[left], labels[left]), labels[left])
        print(make.attack, f"{100 * ours.double().mean():.2f} %", flush=True)
    end = time.perf_counter()
    print(
        f"{run} {norm} {eps:g}: the authors' {100 * theirs.double().mean():.2f} % in "
        f"{middle - start:.0f} s, ours {100 * ours.double().mean():.2f} % in {end - middle:.0f} s; "
        f"{int((theirs != ours).sum())} of {images} images differ"
    )


def right(model, images, labels):
    """Which images (N, C, H, W) a classifier gets right, bool (N,)."""
    with torch.no_grad():
        return torch.cat([model(batch).argmax(1) for batch in images.split(500)]) == labels


if __name__ == "__main__":
    main(*sys.argv[1:])
