"""Attack images part by part: what is done survives a kill, and processes share the rest."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout
from torch import Tensor, nn

from funn.artifacts.layout import EXAMPLES
from funn.data.images import Images
from funn.errors import UserError
from funn.evaluation.records.table import read_seconds, read_table, records, write_table
from funn.evaluation.trials.examples import write_examples
from funn.evaluation.trials.progress import progress_bar
from funn.evaluation.trials.run_attack import predict, run_attack

# Images attacked, measured and written at a time, unless the attack says: what a kill can cost.
_PART = 1000


def attack_parts(
    attack: Any,
    folder: Path,
    judge: nn.Module,
    images: Images,
    predictions: Tensor,
    batch_size: int,
    label: str,
    source: nn.Module | None = None,
    finished: Callable[[], bool] = lambda: False,
    begins: float = 0.0,
) -> None:
    """Write the records of each part, attacking what no other run has written.

    Several processes may do so at once, in the same folder: each takes a part that is free.

    Args:
        attack: any attack with torchattacks' interface, on the classifier, or on `source`.
        folder: where the parts lie until they are merged.
        judge: the float64 copy of the classifier, from `verification.float64_verifier`.
        images: what to attack.
        predictions: the classifier's, of these images (N,).
        batch_size: most images in one forward pass.
        label: text of the progress bar.
        source: the classifier that the attack sees, if not this one: what fools it is then shown to
            this one.
        finished: whether another process has merged all parts.
        begins: with which part to begin, as a share of the images: processes that begin at
            different places meet late.
    """
    total, size = len(images.labels), getattr(attack, "images_per_part", _PART)
    folder.mkdir(parents=True, exist_ok=True)
    waiting, taken = deque(range(0, total, size)), set[int]()
    waiting.rotate(-int(begins * len(waiting)))
    with progress_bar(attack, total, label) as bar:
        while waiting:
            first = waiting.popleft()
            path = folder / f"part-{first:07d}.parquet"
            labels = images.labels[first : first + size]
            # A part that another process is at comes last; then one waits for it, for it may be
            # killed.
            lock = FileLock(lock_of(path), blocking=first in taken)
            try:
                held = lock.acquire()
            except Timeout:
                taken.add(first)
                waiting.append(first)
                continue
            with held:
                if not path.exists() and not finished():
                    start = time.perf_counter()
                    clean = predictions[first : first + size]
                    few = Images(images.images[first : first + size], labels)
                    table = _attack(attack, judge, first, few, clean, batch_size, source, folder)
                    write_table(path, table, seconds=time.perf_counter() - start)
                if finished():  # whoever merged has removed the locks, of which this is a new one
                    lock_of(path).unlink(missing_ok=True)
            bar.update(len(labels))


def _attack(
    attack: Any,
    judge: nn.Module,
    first: int,
    images: Images,
    predictions: Tensor,
    batch_size: int,
    source: nn.Module | None,
    folder: Path,
) -> pa.Table:
    """The records of one part; of the first a picture too."""
    x = images.floats()
    seen = predictions if source is None else predict(source, x, batch_size)
    result = run_attack(attack, x, images.labels, seen, batch_size)
    if first == 0:
        write_examples(folder / EXAMPLES, x, result.adversarials)
    return records(judge, first, x, images.labels, predictions, seen, result)


def lock_of(part: Path) -> Path:
    """The lock of a part's file: who holds it attacks that part."""
    return part.with_suffix(".lock")


def parts(folder: Path) -> list[Path]:
    """The parts that lie in a folder, in the order of their images."""
    return sorted(folder.glob("part-*.parquet"))


def merge(folder: Path, path: Path, count: int) -> float:
    """Join the parts in a folder, of so many images, into one file of records.

    Returns:
        Seconds that all parts took, whichever process attacked them.

    Raises:
        UserError: if a part is missing.
    """
    table = pa.concat_tables([read_table(part) for part in parts(folder)])
    if len(table) != count:
        raise UserError(f"parts of {folder} were removed meanwhile: type the command again")
    write_table(path, table)
    return sum(read_seconds(part) for part in parts(folder))
