"""The configuration's types and ranges; `conf/*.yaml` holds the values.

Groups with a `_target_` (model, attack, ...) are open: there the value in the YAML file declares
the type.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from funn.config.suite import Node, Suite, known_protocol
from funn.errors import above, at_least, require


@dataclass
class PlayersConfig:
    """How one of the two phases of the game is trained."""

    epochs: int = MISSING
    batch_size: int = MISSING
    attacker_lr: float = MISSING
    defender_lr: float = MISSING


@dataclass
class ClassifierConfig:
    """How the head is trained."""

    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    margin: float = MISSING


@dataclass
class PhaseConfig:
    """Which stages to run; null for all that the defence has."""

    stages: list[str] | None = MISSING


@dataclass
class TrainerConfig:
    """What Lightning trains on.

    Attributes:
        accelerator: cpu, gpu, or another that Lightning knows.
        devices: how many; with more than one each is a process that trains on its share of every
            batch.
    """

    accelerator: str = MISSING
    devices: int = MISSING

    def __post_init__(self) -> None:
        at_least("trainer.devices", self.devices, 1)


@dataclass
class LoggerConfig:
    """Whether W&B mirrors the files, and how."""

    wandb: bool = MISSING
    mode: str = "auto"
    project: str = "funn"
    entity: str | None = None

    def __post_init__(self) -> None:
        modes = ("auto", "online", "offline", "disabled")
        require(self.mode in modes, f"logger.mode={self.mode} must be one of {', '.join(modes)}")


@dataclass
class TrainConfig:
    """Everything that `python src/train.py` reads. Values and their sources: conf/train.yaml."""

    beta: float = MISSING
    gamma: float = MISSING
    seed: int = MISSING
    reuse: bool = MISSING
    log_every: int = MISSING
    image_every: int = MISSING
    data_dir: str = MISSING
    output_dir: str = MISSING
    init: PlayersConfig = MISSING
    adversarial: PlayersConfig = MISSING
    classifier: ClassifierConfig = MISSING
    phase: PhaseConfig = MISSING
    trainer: TrainerConfig = MISSING
    logger: LoggerConfig = MISSING
    defense: Node = MISSING
    objective: Node = MISSING
    attacker: Node = MISSING
    head: Node = MISSING
    model: Node = MISSING
    data: Node = MISSING

    def __post_init__(self) -> None:
        above("beta", self.beta, 0)
        at_least("gamma", self.gamma, 0)
        at_least("seed", self.seed, 0)
        at_least("log_every", self.log_every, 1)
        at_least("image_every", self.image_every, 1)
        for stage in ("init", "adversarial", "classifier"):
            for name, value in dataclasses.asdict(getattr(self, stage)).items():
                key = f"{stage}.{name}"
                if name.endswith("lr"):
                    above(key, value, 0)
                else:
                    at_least(key, value, {"epochs": 0, "batch_size": 1, "margin": 0}[name])

    def resolved(self) -> Node:
        """All values as plain dictionaries."""
        return dataclasses.asdict(self)


@dataclass
class EvaluateConfig:
    """Everything that `python src/evaluate.py` reads. Values: conf/evaluate.yaml."""

    run: str | None = None
    victim: str | None = None
    source: str | None = None
    attack: Node | None = None
    suite: Suite | None = None
    data: Node | None = None
    protocol: str = MISSING
    images: int | None = None
    batch_size: int = MISSING
    reuse: bool = MISSING
    changed_code: bool = MISSING
    shard: str | None = None
    data_dir: str = MISSING
    output_dir: str = MISSING
    logger: LoggerConfig = MISSING

    def __post_init__(self) -> None:
        require(
            (self.attack is None) != (self.suite is None),
            "give either attack=NAME or suite=NAME (and not both), e.g. suite=table1",
        )
        known_protocol("protocol", self.protocol)
        require(
            (self.run is None) != (self.victim is None),
            "missing: give either run=FOLDER (what src/train.py printed last, such as "
            "outputs/latest/funn) or victim=package.module:callable",
        )
        require(
            self.victim is None or self.data is not None,
            "missing: victim= needs images to be attacked on: give data=NAME, e.g. data=mnist",
        )
        if self.run is not None:
            require(
                Path(self.run).exists(),
                f"run={self.run} does not exist: give the folder that src/train.py printed last, "
                "such as outputs/latest/funn",
            )
        if self.source not in (None, "bare"):
            require(
                Path(str(self.source)).exists(),
                f"source={self.source} does not exist: give bare, or a folder that src/train.py "
                "printed last, such as outputs/latest/classic",
            )
        at_least("batch_size", self.batch_size, 1)
        share = re.fullmatch(r"(\d+)/(\d+)", self.shard or "1/1")
        require(
            share is not None and 1 <= int(share[1]) <= int(share[2]),
            f"shard={self.shard} must be i/n with i from 1 to n, e.g. shard=1/4",
        )
        if self.images is not None:
            at_least("images", self.images, 1)

    @property
    def begins(self) -> float:
        """Where `shard` begins, as a share of the images."""
        part, count = (self.shard or "1/1").split("/")
        return (int(part) - 1) / int(count)

    def resolved(self) -> Node:
        """All values as plain dictionaries."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Trial:
    """One attack under one protocol.

    Attributes:
        name: the attack's name in the configuration.
        protocol: "strict", "foolbox1", or "both" for an attack that is the same under either.
        images: its own number of images; None if it has none. What it is run on:
            `funn.evaluation.how_many_images`.
        spec: the attack's target and settings.
        changed: what of these conf/attack does not declare so, by dotted key.
    """

    name: str
    protocol: str
    images: int | None
    spec: Node
    changed: Node = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images is not None:
            at_least(f"images of {self.name}", self.images, 1)


@dataclass
class ReportConfig:
    """Everything that `python src/report.py` reads."""

    data_dir: str = MISSING
    output_dir: str = MISSING


@dataclass(frozen=True)
class Launch:
    """How the command was started.

    Attributes:
        group: joins what one command (a sweep, a pipeline) trains.
        overrides: what the user typed.
        choices: the option chosen of each configuration group.
        unusual: the model and the data, as `group=option`, where they are not those that conf/
            gives the defence.
    """

    group: str
    overrides: tuple[str, ...]
    choices: Mapping[str, str | None]
    unusual: tuple[str, ...]

    def choice(self, group: str) -> str | None:
        """The option chosen of a group; None if none was."""
        return self.choices.get(group)


def unknown_key(name: Any, known: Iterable[Any], path: str) -> str:
    """What to tell a user who typed a key that is not known.

    Args:
        name: the key, without what lies before it.
        known: the keys that it could have been.
        path: the dotted key of what they lie in; empty for the whole configuration.
    """
    names = [str(each) for each in known]
    meant = get_close_matches(str(name), names, n=1)
    before = f"{path}." if path else ""
    if meant:
        hint = f"did you mean {before}{meant[0]}? (--cfg job lists the keys)"
    elif path:
        hint = f"{path} has {', '.join(names) or 'none'} (--cfg job lists the keys)"
    else:  # too many for a line
        hint = "--cfg job lists the keys"
    return f"unknown key {before}{name}: {hint}"
