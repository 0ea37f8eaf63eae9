"""Stages of training: each has a fingerprint, a folder, and is trained once."""

import ast
import hashlib
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from funn.data import ImageData, Images, TensorBatches
from funn.schema import ClassifierConfig, PlayersConfig, TrainConfig
from funn.stage_module import StageModule

# What every training depends on, for its fingerprint.
NETWORK_SOURCES = (
    "funn.build",
    "funn.networks",
    "funn.seeding",
    "funn.data",
    "funn.processes",
    "funn.stage_module",
    "funn.fast_layers",
    "funn.dense_product",
    "funn.thin_convolution",
)


@dataclass
class Fit:
    """What a stage trains: a module on batches, for a number of epochs."""

    module: StageModule
    batches: TensorBatches
    epochs: int
    callbacks: Sequence[Callback] = field(default_factory=list)

    @classmethod
    def on_images(
        cls,
        module: StageModule,
        images: Images,
        settings: PlayersConfig | ClassifierConfig,
        seed: int,
        callbacks: Sequence[Callback] = (),
    ) -> "Fit":
        """Train a module, in training mode, on batches of images."""
        batches = TensorBatches(*images, settings.batch_size, seed)
        return cls(module.train(), batches, settings.epochs, callbacks)


class Stage(ABC):
    """One stage of a defence. A YAML file under conf/defense names its stages in order.

    Attributes:
        keys: the configuration keys (dotted) that this stage reads, for its fingerprint.
        sources: the modules that define what it computes, for its fingerprint.
    """

    keys: tuple[str, ...]
    sources: tuple[str, ...]

    def check(self, config: TrainConfig) -> None:  # noqa: B027
        """Refuse a configuration that this stage cannot be trained with, before any stage is.

        Raises:
            UserError: with what to type instead.
        """

    @abstractmethod
    def prepare(
        self, config: TrainConfig, data: ImageData, parent: Path | None, folder: Path
    ) -> Fit:
        """Return what to train.

        Args:
            config: the validated configuration.
            data: the dataset.
            parent: checkpoint of the stage before; None for the first.
            folder: the stage's own folder.
        """


def fingerprint(
    stage: Stage, name: str, config: Mapping[str, Any], data_checksum: str, parent: str | None
) -> str:
    """Hash all that a stage's result depends on.

    Its own resolved keys, the training data's checksum, its parent's SHA-256, the seed, the torch
    version, and the source files that define it (their code: comments and docstrings may change).
    """
    facts = {
        "stage": name,
        "keys": own_settings(stage, name, config),
        "data": data_checksum,
        "parent": parent,
        "seed": config["seed"],
        "torch": torch.__version__,
        "sources": {source: code_hash(source) for source in stage.sources},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


def own_settings(stage: Stage, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a stage reads, by dotted key: those it names, and its own options."""
    return {
        key: reduce(lambda value, part: value[part], key.split("."), config)
        for key in (*stage.keys, f"defense.stages.{name}")
    }


@cache
def code_hash(module: str) -> str:
    """Hash a module's code without its comments, docstrings and layout."""
    tree = _tree(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = list(_without_docstrings(body))  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def modules_behind(module: str, package: str) -> list[str]:
    """The modules of `package` that a module imports, through any number of steps, and itself."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        found.add(name)
        for node in ast.walk(_tree(name)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
                waiting += {str(node.module)} - found
    return sorted(found)


def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text())


def _without_docstrings(body: Iterable[ast.AST]) -> Iterable[ast.AST]:
    return (
        node
        for node in body
        if not (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
    )
