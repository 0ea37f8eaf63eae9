"""Foolbox 2.4's pixel attacks on given images: a process of `benchmarks.attacks`."""

import collections
import collections.abc
import sys
import time
from pathlib import Path

import numpy as np

# Foolbox 2.4 was written for an older Python.
collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]
collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]

import foolbox  # noqa: E402

from funn.evaluation.trials.run_attack import counted  # noqa: E402
from funn.loading import load_classifier  # noqa: E402
from funn.runtime.malloc import keep_freed_memory  # noqa: E402


def main() -> None:
    """Arguments: a run folder, SinglePixel or LocalSearch, an input and an output file."""
    keep_freed_memory()
    run, name, given, got = sys.argv[1:]
    model = load_classifier(Path(run))
    wrapped = foolbox.models.PyTorchModel(model, bounds=(0, 1), num_classes=10, device="cpu")
    attack = getattr(foolbox.attacks, f"{name}Attack")(wrapped)
    with np.load(given) as content:
        images, labels = content["images"], content["labels"]
    with counted(model) as passes:
        start = time.perf_counter()
        adversarials = attack(images, labels)
        seconds = time.perf_counter() - start
    # A failure is NaN there: the clean image is as much of a failure, and has a distance.
    failed = np.isnan(adversarials).any(axis=(1, 2, 3), keepdims=True)
    np.savez(
        got,
        adversarials=np.where(failed, images, adversarials).astype(np.float32),
        seconds=seconds,
        forwards=passes.forward / len(images),
    )


if __name__ == "__main__":
    main()
