"""The configuration: typed, checked before torch is imported, and the only place that knows `cfg`.

`conf/*.yaml` holds the values, this module their types and ranges. Groups with a `_target_`
(model, attack, ...) are open: there the value in the YAML file declares the type.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from funn.errors import UserError

Node = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]

OmegaConf.register_new_resolver("project", lambda: str(ROOT), replace=True)


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


@dataclass
class PhaseConfig:
    """Which stages to run."""

    stages: list[str] = MISSING


@dataclass
class TrainerConfig:
    """What Lightning trains on."""

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
                    at_least(key, value, {"epochs": 0, "batch_size": 1}[name])

    def resolved(self) -> Node:
        """All values as plain dictionaries."""
        return dataclasses.asdict(self)


@dataclass
class EvaluateConfig:
    """Everything that `python src/evaluate.py` reads. Values: conf/evaluate.yaml."""

    run: str = MISSING
    attack: Node | None = None
    suite: Node | None = None
    protocol: str = MISSING
    images: int | None = None
    batch_size: int = MISSING
    reuse: bool = MISSING
    data_dir: str = MISSING
    output_dir: str = MISSING
    logger: LoggerConfig = MISSING

    def __post_init__(self) -> None:
        require(
            (self.attack is None) != (self.suite is None),
            "give either attack=NAME or suite=NAME (and not both), e.g. suite=table1",
        )
        protocols = ("foolbox1", "strict")
        require(
            self.protocol in protocols,
            f"protocol={self.protocol} must be one of {', '.join(protocols)}",
        )
        require(
            Path(self.run).exists(),
            f"run={self.run} does not exist: give the folder that src/train.py printed last, "
            "such as outputs/latest/funn",
        )
        at_least("batch_size", self.batch_size, 1)
        if self.images is not None:
            at_least("images", self.images, 1)

    def resolved(self) -> Node:
        """All values as plain dictionaries."""
        return dataclasses.asdict(self)


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
    """

    group: str
    overrides: tuple[str, ...]
    choices: Mapping[str, str | None]

    def choice(self, group: str) -> str | None:
        """The option chosen of a group; None if none was."""
        return self.choices.get(group)


for _name, _node in (
    ("train_schema", TrainConfig),
    ("evaluate_schema", EvaluateConfig),
    ("report_schema", ReportConfig),
):
    ConfigStore.instance().store(name=_name, node=_node)

Config = TypeVar("Config", TrainConfig, EvaluateConfig, ReportConfig)


def read_config(cfg: DictConfig, kind: type[Config]) -> Config:
    """Turn Hydra's `cfg` into checked dataclasses.

    Raises:
        UserError: for a missing value, a wrong type or a value out of range.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    require(not missing, f"missing: give {', '.join(f'{key}=...' for key in missing)}")
    choices = {
        group: choice
        for group, choice in HydraConfig.get().runtime.choices.items()
        if not group.startswith("hydra/") and choice is not None and "@" not in group
    }
    declared = compose(
        HydraConfig.get().job.config_name, [f"{group}={name}" for group, name in choices.items()]
    )
    for group in choices:
        if group in cfg:
            plain = OmegaConf.to_container(cfg[group], resolve=True)
            check_types(group, plain, OmegaConf.to_container(declared[group], resolve=True))
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    return config


def read_launch() -> Launch:
    """Return how this job was started."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    return Launch(
        group=folder.parent.name if sweep else folder.name,
        overrides=tuple(hydra.overrides.task),
        choices=dict(hydra.runtime.choices),
    )


def check_types(key: str, value: Any, declared: Any) -> None:
    """Require that `value` has the type of the value that a YAML file declares.

    Raises:
        UserError: for another type, an unknown key or a number that is not finite.
    """
    if isinstance(declared, Mapping):
        require(isinstance(value, Mapping), f"{key}={value} must be a group of keys")
        for name, item in value.items():
            known = ", ".join(map(str, declared)) or "none"
            require(name in declared, f"unknown key {key}.{name}; known: {known}")
            check_types(f"{key}.{name}", item, declared[name])
    elif isinstance(declared, list):
        require(isinstance(value, list), f"{key}={value} must be a list such as {declared}")
        for item in value:
            check_types(key, item, declared[0] if declared else item)
    elif isinstance(declared, bool | str) or declared is None:
        fits = value is None or declared is None or type(value) is type(declared)
        require(fits, f"{key}={value} must be {_article(declared)}")
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = isinstance(declared, float) or isinstance(value, int)
        require(number and whole, f"{key}={value} must be {_article(declared)}")
        require(math.isfinite(value), f"{key}={value} must be finite")


def _article(declared: Any) -> str:
    names = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}
    return names.get(type(declared), "a value")


def require(holds: bool, message: str) -> None:
    """Raise a UserError with the message unless `holds`."""
    if not holds:
        raise UserError(message)


def above(name: str, value: float, bound: float) -> None:
    """Require a finite value above a bound."""
    require(math.isfinite(value) and value > bound, f"{name}={value} must be above {bound}")


def at_least(name: str, value: float, bound: float) -> None:
    """Require a finite value of at least a bound."""
    require(math.isfinite(value) and value >= bound, f"{name}={value} must be {bound} or more")
