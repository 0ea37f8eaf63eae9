"""`make bench`, fourth part: the cost of training and of each attack against the size of the task.

Against the number of images, the width of the network and the number of classes, on generated
images. An attack goes the way of an evaluation, with its records on disk, and through as many
images as a few seconds allow; what it then takes for other widths and classes is measured on fewer.
Linux alone counts the peak of the memory of a single task within a process.
"""

import ctypes
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from tqdm import tqdm

from benchmarks.training import contrast, game, train
from funn import attacks
from funn.artifacts.files import write_json
from funn.artifacts.provenance import provenance
from funn.config.compose import ROOT
from funn.data.batches import TensorBatches
from funn.data.images import Images, to_unit
from funn.evaluation.records.verification import float64_verifier
from funn.evaluation.trials.run_attack import predict
from funn.evaluation.trials.shards import attack_parts, merge
from funn.fast_layers import use_fast_layers
from funn.method.networks import Classifier
from funn.runtime.malloc import keep_freed_memory
from funn.training.module import adam
from funn.training.stage import Fit

_IMAGES = (1000, 4000, 15000, 60000)
_FEW = (16, 64, 250)  # before those, of an attack that is slow
_SECONDS = 12.0  # the longest that is measured, for so many images ...
_SHORT = 1.5  # ... and at other widths and classes
_WIDTHS, _CLASSES = (1, 2, 4), (2, 10, 50)
_TRAINED = 4000  # images of a training at other widths
_CHANNELS, _FEATURES = (16, 32), 64
Make = Callable[[nn.Module], Any]
Row = dict[str, Any]

_ATTACKS: dict[str, Make] = {
    "FGSM": attacks.FGSM,
    "BIM": attacks.BIM,
    "PGD": lambda model: attacks.PGD(model, "l2", 1.0),
    "feature PGD": lambda model: attacks.FeaturePGD(model, "l2", 1.0),
    "DeepFool": lambda model: attacks.DeepFool(model, "l2", 50),
    "DDN": attacks.DDN,
    "FMN L2": lambda model: attacks.FMN(model, "l2"),
    "FMN L0": lambda model: attacks.FMN(model, "l0"),
    "sigma-zero": attacks.SigmaZero,
    "APGD-CE": lambda model: attacks.APGD(model, "l2", 1.0),
    "APGD-T": lambda model: attacks.APGD(model, "l2", 1.0, loss="dlr_targeted"),
    "FAB-T": lambda model: attacks.FAB(model, "l2", 1.0),
    "Square": lambda model: attacks.Square(model, "l2", 1.0),
    "LocalSearch": attacks.LocalSearch,
    "SinglePixel": attacks.SinglePixel,
}


def generated(count: int, classes: int) -> Images:
    """Images (N, 1, 28, 28), uint8, of so many random smooth patterns with noise, and labels."""
    draw = torch.Generator().manual_seed(0)
    patterns = F.interpolate(torch.rand(classes, 1, 7, 7, generator=draw), size=(28, 28))
    labels = torch.arange(count) % classes
    images = torch.empty(count, 1, 28, 28, dtype=torch.uint8)
    for rows in torch.arange(count).split(1000):
        noise = torch.randn(len(rows), 1, 28, 28, generator=draw)
        images[rows] = (255 * (patterns[labels[rows]] + 0.1 * noise).clamp(0, 1)).to(torch.uint8)
    return Images(images, labels)


def trained(width: int, classes: int) -> nn.Module:
    """The paper's encoder with so many times its channels, and a head, trained for a moment."""
    shape = {
        "image_shape": [1, 28, 28],
        "channels": [width * count for count in _CHANNELS],
        "features": width * _FEATURES,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(
            {"_target_": "funn.method.networks.DenseAutoEncoder", "noise": 0} | shape,
            {
                "_target_": "funn.method.networks.Head", "features": shape["features"],
                "classes": classes, "hidden": [64],
            },
        )  # fmt: skip
    use_fast_layers(model)
    optimizer = adam(model.parameters(), 1e-3)
    images, labels = generated(128 * 60, classes)
    for x, y in zip(images.split(128), labels.split(128), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(to_unit(x)), y).backward()
        optimizer.step()
    return model.requires_grad_(False).eval()


def cost(task: Callable[[], object]) -> dict[str, float]:
    """Seconds of a task, and by how many MiB the memory of this process grew for it at most."""
    ctypes.CDLL(None).malloc_trim(0)  # what tasks before it have left
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, start = _memory("VmRSS"), time.perf_counter()
    task()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mebibytes": _memory("VmHWM") - before}


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def attack_cost(make: Make, model: nn.Module, count: int, classes: int) -> dict[str, float]:
    """What an attack on so many images, that the classifier gets right or not, costs."""
    images = generated(count, classes)

    def evaluate() -> None:
        with tempfile.TemporaryDirectory() as folder:
            predictions = predict(model, images.floats(), 128)
            attack_parts(
                make(model), Path(folder), float64_verifier(model), images, predictions, 128, "size"
            )
            merge(Path(folder), Path(folder) / "records.parquet", count)

    return cost(evaluate)


def attack_rows(name: str, make: Make, models: dict[tuple[int, int], nn.Module]) -> Iterator[Row]:
    """An attack against the number of images, then against the width and the classes."""
    counts = (*_FEW, *_IMAGES)
    few, seconds = counts[0], 0.0
    for last, count in zip((1, *counts), counts, strict=False):
        if seconds * count / last > _SECONDS:
            break
        found = attack_cost(make, models[1, 10], count, 10)
        seconds = found["seconds"]
        few = count if seconds < _SHORT else few
        yield {"task": name, "against": "images", "size": count, "images": count, **found}
    for (width, classes), model in models.items():
        measured = {"task": name, "images": few, **attack_cost(make, model, few, classes)}
        if classes == 10:
            yield {"against": "width", "size": width, **measured}
        if width == 1:
            yield {"against": "classes", "size": classes, **measured}


def training_rows() -> Iterator[Row]:
    """One epoch of each training against the number of images and the width."""
    trainings: dict[str, Callable[[TensorBatches, int], Fit]] = {
        "training init": partial(game, "init"),
        "training adversarial": partial(game, "adversarial"),
        "training funn_pgd": contrast,
    }
    for name, training in trainings.items():
        for against, count, width in (
            *(("images", count, 1) for count in _IMAGES),
            *(("width", _TRAINED, width) for width in _WIDTHS),
        ):
            images = generated(count, 10).images
            parts = training(TensorBatches(images, torch.arange(count), 128, 0), width)
            found = cost(partial(train, parts))
            size = count if against == "images" else width
            yield {"task": name, "against": against, "size": size, "images": count, **found}


def main() -> None:
    """Measure everything, and write outputs/bench/size.json."""
    keep_freed_memory()
    rows: list[Row] = []
    with tqdm(desc="cost against size", unit="task") as bar:
        for row in training_rows():
            rows.append(row)
            bar.update()
        models = {(width, 10): trained(width, 10) for width in _WIDTHS}
        models |= {(1, classes): trained(1, classes) for classes in _CLASSES}
        for (_, classes), model in models.items():
            images, labels = generated(1000, classes)
            right = (predict(model, to_unit(images), 500) == labels).double().mean()
            assert right > 0.9, f"the classifier of {classes} classes is right on {right:.0%} only"
        for name, make in _ATTACKS.items():
            for row in attack_rows(name, make, models):
                rows.append(row)
                bar.update()
    path = ROOT / "outputs" / "bench" / "size.json"
    write_json(path, {"rows": rows, **provenance()})
    print(path)


if __name__ == "__main__":
    main()
