"""Where a result comes from: revision, packages, machine."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchattacks", "numpy",
    "wandb",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Return the git revision of this code, package versions and the machine, as plain values."""
    import torch

    return {
        "date": time.strftime("%Y-%m-%d"),
        "revision": git_revision(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": {
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def git_revision() -> str | None:
    """Return the commit of the working tree, with `-dirty` if it was changed; None without git."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
