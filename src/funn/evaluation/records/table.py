"""One row per image and attack: what every figure traces back to."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from funn.artifacts.files import replace_file
from funn.attacks.core.result import AttackResult
from funn.errors import UserError
from funn.evaluation.records.verification import verify

SCHEMA = pa.schema(
    {
        "index": pa.int64(),
        "input_hash": pa.string(),
        "label": pa.int64(),
        "clean_prediction": pa.int64(),
        "clean_rejected": pa.bool_(),
        "source_prediction": pa.int64(),
        "success_tracked": pa.bool_(),
        "success_verified": pa.bool_(),
        "unexplained": pa.bool_(),
        "rejected": pa.bool_(),
        "step": pa.int64(),
        "l0": pa.int64(),
        "l1": pa.float64(),
        "l2": pa.float64(),
        "linf": pa.float64(),
        "margin": pa.float64(),
        "closest": pa.float64(),
        "blind": pa.bool_(),
        "forwards": pa.int64(),
        "backwards": pa.int64(),
    }
)


@torch.no_grad()
def records(
    judge: nn.Module,
    first: int,
    images: Tensor,
    labels: Tensor,
    predictions: Tensor,
    source_predictions: Tensor,
    result: AttackResult,
) -> pa.Table:
    """Measure each adversarial image.

    `success_verified` and `margin`: see `verify`. `unexplained`: the attack saw a success that the
    float64 copy denies by more than rounding. `closest` is the least |margin| that the attack
    itself saw on its way, in float32; `blind`: it had no gradient there. `rejected`: a detector of
    the classifier's, if it has any (a method `rejects`), rejects the returned image;
    `clean_rejected`: the clean one.

    Args:
        judge: the float64 copy of the classifier.
        first: index of the first image in its dataset.
        images: clean images (N, C, H, W) in [0, 1].
        labels: (N,).
        predictions: the classifier's predictions of the clean images (N,), int64.
        source_predictions: those of the classifier that the attack saw, often the same one.
        result: what the attack returned.

    Returns:
        A table of N rows with `SCHEMA`. Distances are between the clean and the returned image.
    """
    adversarials = result.adversarials.float()
    verified = verify(judge, adversarials, labels)
    rejects = getattr(judge, "rejects", lambda x: torch.zeros(len(x), dtype=torch.bool))
    distance = (adversarials.double() - images.double()).flatten(1)
    columns = {
        "index": torch.arange(first, first + len(images)),
        "label": labels,
        "clean_prediction": predictions,
        "clean_rejected": rejects(images.double()),
        "source_prediction": source_predictions,
        "success_tracked": result.success,
        "success_verified": verified.success,
        "unexplained": result.success & verified.denied,
        "rejected": rejects(adversarials.double()),
        "step": result.step,
        "l0": (distance != 0).sum(1),
        "l1": distance.norm(p=1, dim=1),
        "l2": distance.norm(p=2, dim=1),
        "linf": distance.abs().amax(1),
        "margin": verified.margin,
        "closest": result.closest.double(),
        "blind": result.blind,
        "forwards": result.forwards,
        "backwards": result.backwards,
    }
    arrays = {name: pa.array(column.cpu().numpy()) for name, column in columns.items()}
    arrays["input_hash"] = pa.array([input_hash(image) for image in images])
    return pa.table({name: arrays[name] for name in SCHEMA.names}, schema=SCHEMA)


def input_hash(image: Tensor) -> str:
    """Return 16 hex digits of the SHA-256 of a float32 image's bytes."""
    return hashlib.sha256(image.contiguous().cpu().numpy().data).hexdigest()[:16]


def write_table(path: Path, table: pa.Table, seconds: float | None = None) -> None:
    """Write a Parquet file, whole or not at all; `seconds` is kept beside the rows."""
    facts = None if seconds is None else {"seconds": repr(seconds)}
    stream = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(facts), stream, write_page_checksum=True)
    replace_file(path, stream.getvalue().to_pybytes())


def read_table(path: Path, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Read a Parquet file, of records unless `schema` is another.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True).replace_schema_metadata(None)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(_damaged(path)) from error
    if not table.schema.equals(schema):  # the checksums are of the pages alone
        raise UserError(_damaged(path))
    return table


def _damaged(path: Path) -> str:
    return f"{path} is damaged: remove {path.parent} and type the command that made it again"


def read_seconds(path: Path) -> float:
    """Read what `write_table` kept beside the rows."""
    return float(pq.read_schema(path).metadata[b"seconds"])
