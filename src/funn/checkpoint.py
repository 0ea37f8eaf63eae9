"""Checkpoints that rebuild their own networks from plain numbers."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from funn.build import build_module
from funn.errors import UserError
from funn.files import replace_file

_FORMAT = 1


class Saved(NamedTuple):
    """A network in a checkpoint.

    Attributes:
        spec: the plain numbers (with a `_target_`) that rebuild it.
        module: the network.
    """

    spec: Mapping[str, Any]
    module: nn.Module


def save(path: Path, modules: Mapping[str, tuple[Mapping[str, Any], nn.Module]]) -> None:
    """Write networks and their specs to `path`, whole or not at all.

    The same weights give the same bytes.
    """
    content = {
        name: {
            "spec": dict(spec),
            "state": {key: value.detach().cpu() for key, value in module.state_dict().items()},
        }
        for name, (spec, module) in modules.items()
    }
    stream = io.BytesIO()
    torch.save({"format": _FORMAT, "modules": content}, stream)
    replace_file(path, stream.getvalue())


def load(path: Path) -> dict[str, Saved]:
    """Rebuild the networks of a checkpoint, in eval mode, on the CPU.

    Nothing is unpickled but tensors and plain values (`weights_only`), and only classes of
    networks are built.

    Raises:
        UserError: if the file is missing, damaged, or not a checkpoint of ours.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    content = read(path)
    try:
        if content["format"] != _FORMAT:
            raise UserError(f"{path} has checkpoint format {content['format']}, not {_FORMAT}")
        saved = {}
        for name, entry in content["modules"].items():
            module = build_module(entry["spec"])
            module.load_state_dict(entry["state"])
            saved[name] = Saved(entry["spec"], module.eval())
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is not a checkpoint of this project ({error})") from error
    return saved


def read(path: Path) -> dict[str, Any]:
    """Read any checkpoint's tensors and plain values.

    Raises:
        UserError: if the file is damaged or holds anything else.
    """
    try:
        # It is a zip file whose checksums torch does not look at: a flipped bit would pass.
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(member)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise UserError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}): "
            "delete its folder and run the training command again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint of this project")
    return content
