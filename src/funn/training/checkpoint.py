"""Checkpoints that rebuild their own networks from plain numbers."""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from funn.artifacts.files import replace_file
from funn.config.build import build_module
from funn.errors import UserError
from funn.runtime.seeding import seeded
from funn.training.code_behind import Code, code_behind, placeless, targets

log = logging.getLogger(__name__)

_FORMAT = 2
Network = TypeVar("Network", bound=nn.Module, covariant=True)
Kind = TypeVar("Kind", bound=nn.Module)


class Saved(NamedTuple, Generic[Network]):
    """A network that a checkpoint holds or is to hold.

    Attributes:
        spec: the plain numbers (with a `_target_`) that rebuild it.
        module: the network.
    """

    spec: Mapping[str, Any]
    module: Network

    @classmethod
    def fresh(cls, spec: Mapping[str, Any], *seed: object) -> "Saved[nn.Module]":
        """Build an untrained network, its weights drawn from `seed`."""
        with seeded(*seed):
            return Saved(spec, build_module(spec))

    def of(self, kind: type[Kind]) -> "Saved[Kind]":
        """The same, known to be a network of some kind.

        Raises:
            UserError: if it is of another.
        """
        if not isinstance(self.module, kind):
            raise UserError(
                f"{self.spec.get('_target_')} is no {kind.__name__}: what is trained here needs a "
                f"subclass of {kind.__module__}.{kind.__name__}"
            )
        return Saved(self.spec, self.module)


Networks = Mapping[str, Saved[nn.Module]]


def save(path: Path, modules: Networks) -> None:
    """Write networks, their specs and the hashes of their code to `path`, whole or not at all.

    The same weights, specs and code give the same bytes.
    """
    content = {
        name: {
            "spec": dict(spec),
            "state": {key: value.detach().cpu() for key, value in module.state_dict().items()},
        }
        for name, (spec, module) in modules.items()
    }
    stream = io.BytesIO()
    code = dict(sorted(_code(modules).modules.items()))
    torch.save({"format": _FORMAT, "modules": content, "code": code}, stream)
    replace_file(path, stream.getvalue())


def digest(modules: Networks) -> str:
    """Return the SHA-256 of networks: of their weights, and of the numbers and code behind them.

    Unlike the file's bytes it does not say where the code lies.
    """
    found = hashlib.sha256()
    for name, (spec, module) in sorted(modules.items(), key=lambda item: item[0]):
        found.update(json.dumps([name, placeless(spec)], sort_keys=True).encode())
        found.update(weights_digest(module).encode())
    found.update(json.dumps(_code(modules).facts()["code"]).encode())
    return found.hexdigest()


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a network's parameters and buffers: names, types, shapes and bytes."""
    found = hashlib.sha256()
    for key, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found.update(content.numpy().data)
        else:  # what a user's module keeps beside tensors
            found.update(f"{key} {value!r}".encode())
    return found.hexdigest()


def load(path: Path, changed_code: bool = False) -> dict[str, Saved[nn.Module]]:
    """Rebuild the networks of a checkpoint, in eval mode, on the CPU.

    Nothing is unpickled but tensors and plain values (`weights_only`), and only classes of
    networks are built.

    Args:
        path: the file.
        changed_code: load it, with a warning, though the code of its networks is no longer what it
            was when they were trained.

    Raises:
        UserError: if the file is missing, damaged, or not a checkpoint of ours, or if the code of
            its networks has changed since.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    content = read(path)
    try:
        if content["format"] != _FORMAT:
            raise UserError(
                f"{path} has checkpoint format {content['format']}, not {_FORMAT}: train it again"
            )
        saved = {}
        for name, entry in content["modules"].items():
            module = build_module(entry["spec"])
            module.load_state_dict(entry["state"])
            saved[name] = Saved(entry["spec"], module.eval())
        _compare_code(path, content["code"], _code(saved), changed_code)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is not a checkpoint of this project ({error})") from error
    return saved


def _code(modules: Networks) -> Code:
    return code_behind(targets([dict(spec) for spec, _ in modules.values()]))


def _compare_code(path: Path, then: Mapping[str, str], now: Code, allowed: bool) -> None:
    """Refuse networks whose code is not what they were trained with: they would be others."""
    known = set(then.values())
    changed = sorted(name for name, code in now.modules.items() if code not in known)
    gone = sorted(set(then) - set(now.modules)) if known - set(now.modules.values()) else []
    if not changed and not gone:
        return
    names = ", ".join(changed or gone)
    if not allowed:
        raise UserError(
            f"the code of the networks in {path} has changed since they were trained ({names}): "
            "train them again, or give changed_code=true to take them as the code is now"
        )
    log.warning("%s: the code of its networks has changed since training (%s)", path, names)


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
