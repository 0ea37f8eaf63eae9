"""Run an attack over a set of images, part by part, and record what became of each image."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn
from tqdm import tqdm

from funn.attacks.base import BatchedAttack, untouched
from funn.attacks.result import AttackResult
from funn.data import Images, to_unit
from funn.examples import write_examples
from funn.records import margins, read_seconds, read_table, records, referee, write_table

# Images attacked, measured and written at a time, unless the attack says: what a kill can cost.
_PART = 1000


def attack_parts(
    attack: Any,
    folder: Path,
    model: nn.Module,
    images: Images,
    batch_size: int,
    label: str,
    source: nn.Module | None = None,
) -> None:
    """Write the records of each part, attacking what an earlier run has not written.

    Args:
        attack: any attack with torchattacks' interface, on `model`, or on `source`.
        folder: where the parts lie until they are merged.
        model: the classifier.
        images: what to attack.
        batch_size: most images in one forward pass.
        label: text of the progress bar.
        source: the classifier that the attack sees, if not `model` itself: what fools it is then
            shown to `model`.
    """
    judge = referee(model)
    total, size = len(images.labels), getattr(attack, "images_per_part", _PART)
    with tqdm(total=total, desc=label, unit="image", disable=not sys.stderr.isatty()) as bar:
        for first in range(0, total, size):
            path = folder / f"part-{first:07d}.parquet"
            labels = images.labels[first : first + size]
            if not path.exists():
                start = time.perf_counter()
                x = to_unit(images.images[first : first + size])
                predictions = predict(model, x, batch_size)
                seen = predictions if source is None else predict(source, x, batch_size)
                result = run_attack(attack, x, labels, seen, batch_size)
                table = records(judge, first, x, labels, predictions, seen, result)
                if first == 0:
                    write_examples(folder / "examples.png", x, result.adversarials)
                write_table(path, table, seconds=time.perf_counter() - start)
            bar.update(len(labels))


def parts(folder: Path) -> list[Path]:
    """The parts that lie in a folder, in the order of their images."""
    return sorted(folder.glob("part-*.parquet"))


def merge(folder: Path, path: Path) -> float:
    """Join the parts in a folder into one file of records.

    Returns:
        Seconds that all parts took, whichever process attacked them.
    """
    write_table(path, pa.concat_tables([read_table(part) for part in parts(folder)]))
    return sum(read_seconds(part) for part in parts(folder))


def run_attack(
    attack: Any, images: Tensor, labels: Tensor, predictions: Tensor, batch_size: int
) -> AttackResult:
    """Attack what the classifier gets right; what it gets wrong stays as it is, a success at 0.

    Args:
        attack: any attack with torchattacks' interface.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        predictions: of the clean images (N,).
        batch_size: most images in one forward pass.
    """
    right = predictions == labels
    adversarials, success, step = images.clone(), ~right, torch.where(right, -1, 0)
    forwards, backwards = torch.zeros_like(step), torch.zeros_like(step)
    closest = torch.full((len(images),), torch.inf)
    targets = torch.arange(len(images))[right]
    if isinstance(attack, BatchedAttack):
        # It cuts its own batches, and fills them up again as images finish.
        attack.batch_size = batch_size
        batch_size = len(images)
    for batch in targets.split(batch_size) if len(targets) else ():
        part = attack_batch(attack, images[batch], labels[batch])
        adversarials[batch] = part.adversarials
        success[batch], step[batch] = part.success, part.step
        forwards[batch], backwards[batch] = part.forwards, part.backwards
        closest[batch] = part.closest
    return AttackResult(adversarials, success, step, closest, forwards, backwards)


def attack_batch(attack: Any, images: Tensor, labels: Tensor) -> AttackResult:
    """Attack one batch by any attack with torchattacks' interface.

    One that returns images only is judged by the classifier's prediction of them; its passes are
    counted as means over the batch, and the step of a success is not known.
    """
    if isinstance(attack, BatchedAttack):
        return attack.run(images, labels)
    model = attack.model
    with untouched(model), counted(model) as passes:
        adversarials = attack(images.clone(), labels.clone()).detach()
    unknown = torch.full((len(images),), -1)
    forwards, backwards = (torch.full_like(unknown, round(n / len(images))) for n in passes)
    finite = adversarials.flatten(1).isfinite().all(1)  # the argmax of NaN is no success
    with torch.no_grad():
        logits = model(adversarials)
    success = finite & (logits.argmax(1) != labels)
    closest = margins(logits, labels).abs()
    return AttackResult(adversarials, success, unknown, closest, forwards, backwards)


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """Count the images that pass forward through a model and backward, as [forward, backward]."""
    passes = [0, 0]

    def forward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        del module, inputs
        passes[0] += len(output)
        if output.requires_grad:
            output.register_hook(backward)

    def backward(gradient: Tensor) -> None:
        passes[1] += len(gradient)

    handle = model.register_forward_hook(forward)
    try:
        yield passes
    finally:
        handle.remove()


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Return the predicted classes (N,) of images (N, C, H, W)."""
    batches = [model(batch).argmax(1) for batch in images.split(batch_size) if len(batch)]
    return torch.cat(batches) if batches else torch.zeros(0, dtype=torch.int64)
