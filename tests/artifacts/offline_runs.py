"""What W&B runs that were logged offline hold."""

import json
import struct
from types import SimpleNamespace

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768


def records(path):
    """The records of a `.wandb` file: a LevelDB log behind a header of seven bytes."""
    data, at, kept = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < 7:  # the padding of a block
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        kept += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(kept)
            kept = b""
            yield record


def values(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(path):
    run = SimpleNamespace(rows=[], summary={}, files=path.parent / "files")
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id = record.run.run_id
            run.name, run.group = record.run.display_name, record.run.run_group
            run.kind, run.config = record.run.job_type, values(record.run.config.update)
        elif kind == "history":
            run.rows.append(values(record.history.item))
        elif kind == "summary":
            run.summary |= values(record.summary.update)
    # A run that was closed at once may keep its summary in its history alone.
    run.summary = {name: value for row in run.rows for name, value in row.items()} | run.summary
    return run


def read_table(run, key):
    """The rows of a table as it was logged last, each a dictionary by column."""
    table = json.loads((run.files / run.summary[f"{key}/path"]).read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
