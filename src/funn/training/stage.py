"""Stages of training: each has a fingerprint, a folder, and is trained once."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from funn.config.schema import ClassifierConfig, PlayersConfig, TrainConfig
from funn.data.batches import TensorBatches
from funn.data.dataset import ImageData
from funn.data.images import Images
from funn.training.code_behind import code_behind, placeless, targets
from funn.training.module import StageModule


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
    """

    keys: tuple[str, ...]

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


def stage_facts(
    stage: Stage, name: str, config: Mapping[str, Any], data: Mapping[str, str], parent: str | None
) -> dict[str, Any]:
    """All that a stage's result depends on, for its fingerprint and to be told.

    Args:
        stage: the stage.
        name: its name in the defence.
        config: all resolved values.
        data: checksums of the data.
        parent: the digest of its parent's networks (`checkpoint.digest`); None for the first.

    Returns:
        Its own resolved keys, the data, the parent, the seed, and the code: the stage's own, that
        of every `_target_` among its keys, of the data set and of the fit, and all they import.
    """
    settings = own_settings(stage, name, config)
    roots = [
        type(stage).__module__,
        "funn.training.fit",
        *targets(settings),
        *targets(config["data"]),
    ]
    return {
        "stage": name,
        "keys": placeless(settings),
        "data": dict(data),
        "parent": parent,
        "seed": config["seed"],
        **code_behind(roots).facts(),
    }


def own_settings(stage: Stage, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a stage reads, by dotted key: those it names, and its own options."""
    return {
        key: reduce(lambda value, part: value[part], key.split("."), config)
        for key in (*stage.keys, f"defense.stages.{name}")
    }
