"""Hydra's `cfg` turned into checked dataclasses, before torch is imported.

The only module that knows `cfg`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from funn.config.schema import (
    EvaluateConfig,
    Launch,
    ReportConfig,
    TrainConfig,
    Trial,
    unknown_key,
)
from funn.config.suite import PROTOCOLS, Node
from funn.config.title import differences
from funn.errors import UserError, require

ROOT = Path(__file__).resolve().parents[3]
# Groups of which an option stands for several keys in a run's name.
_TELLING = ("model", "head", "attacker", "objective")

OmegaConf.register_new_resolver("project", lambda: str(ROOT), replace=True)

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
        UserError: for an unknown key, a missing value, a wrong type or a value out of range.
    """
    check_keys(OmegaConf.to_container(cfg, resolve=False), kind)
    choices = {
        group: choice
        for group, choice in HydraConfig.get().runtime.choices.items()
        if not group.startswith("hydra/") and choice is not None and "@" not in group
    }
    declared = compose(
        HydraConfig.get().job.config_name, [f"{group}={name}" for group, name in choices.items()]
    )
    # One that was typed as `~key` is in neither.
    missing = OmegaConf.missing_keys(cfg) | {str(key) for key in declared if key not in cfg}
    names = ", ".join(f"{key}=..." for key in sorted(missing))
    require(not missing, f"missing: give {names}")
    for group in map(str, cfg):
        if OmegaConf.is_config(cfg[group]):
            # As `+attack@suite=fgsm` leaves it: filled, but with no option of its own.
            require(declared[group] is not None, f"{group} is not chosen: give {group}=NAME")
            plain = OmegaConf.to_container(cfg[group], resolve=True)
            check_types(group, plain, OmegaConf.to_container(declared[group], resolve=True))
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    return config


def read_trials(cfg: DictConfig) -> list[Trial]:
    """Return what a valid evaluation's `cfg` asks for: each attack under each of its protocols.

    An attack depends on the protocol if its YAML file mentions `${protocol}`. How many images it
    takes is decided when they are there, by `funn.evaluation.how_many_images`.
    """
    suite = cfg.suite
    wanted = [cfg.protocol] if suite is None else list(suite.protocols)
    under = {protocol: _attacks_under(cfg, protocol) for protocol in PROTOCOLS}
    usual = {protocol: declared_attacks(under[protocol], protocol) for protocol in PROTOCOLS}
    trials = []
    for name in under["strict"]:
        same = under["strict"][name] == under["foolbox1"][name]
        for protocol in ["both"] if same else wanted:
            spec = dict(under[wanted[0] if same else protocol][name])
            own = spec.pop("images", None)
            declared = usual["strict" if same else protocol].get(name, {})
            changed = differences(spec, declared)
            trials.append(Trial(name, protocol, own, spec, changed))
    return trials


def _attacks_under(cfg: DictConfig, protocol: str) -> Node:
    cfg = cfg.copy()
    cfg.protocol = protocol
    name = HydraConfig.get().runtime.choices.get("attack")
    attacks = {name: cfg.attack} if cfg.suite is None else cfg.suite.attacks
    resolved = {key: OmegaConf.to_container(spec, resolve=True) for key, spec in attacks.items()}
    return {str(key): spec for key, spec in resolved.items()}


def read_launch() -> Launch:
    """Return how this job was started."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    return Launch(
        group=folder.parent.name if sweep else folder.name,
        overrides=tuple(hydra.overrides.task),
        choices=dict(hydra.runtime.choices),
        unusual=_unusual(hydra.job.config_name, hydra.runtime.choices),
    )


def _unusual(command: str | None, choices: Mapping[str, str | None]) -> tuple[str, ...]:
    """The model and the data, where they are not what the defence has if nothing else is typed."""
    defense = choices.get("defense")
    if defense is None:  # an evaluation
        return ()
    plain = compose(command, [f"defense={defense}"], return_hydra_config=True)
    usual = plain.hydra.runtime.choices
    groups = [group for group in ("model", "data") if choices.get(group) != usual[group]]
    return tuple(f"{group}={choices.get(group)}" for group in groups)


def declared_training(defense: str, keys: Sequence[str], *options: str) -> Node:
    """Return what conf/ gives for some dotted keys under a defence; empty if it has no such one.

    Args:
        defense: an option of the group.
        keys: dotted.
        options: of other groups, as `group=option`.
    """
    try:
        cfg = compose("train", [f"defense={defense}", *options])
    except MissingConfigException:
        return {}
    values = {key: OmegaConf.select(cfg, key) for key in keys}
    return {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in values.items()
    }


def changed_training(settings: Node, choices: Mapping[str, str | None]) -> Node:
    """Return what of a training is not as conf/ declares it for the defence, as it can be typed.

    Args:
        settings: the values that the training depends on, by dotted key.
        choices: the option chosen of each configuration group.

    Returns:
        Values by dotted key, and options by group where they say it shorter:
        `{"head": "margin", "seed": 1}`.
    """
    defense, keys = str(choices["defense"]), tuple(settings)
    chosen: Node = {}
    rest = differences(settings, declared_training(defense, keys))
    for group in _TELLING if rest else ():
        tried = {**chosen, group: choices.get(group)}
        options = [f"{name}={option}" for name, option in tried.items()]
        left = differences(settings, declared_training(defense, keys, *options))
        if len(left) + len(tried) < len(rest) + len(chosen):
            rest, chosen = left, tried
    return {**chosen, **rest}


def options_of(group: str) -> list[str]:
    """Return the names of the YAML files of a configuration group."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def declared_attacks(names: Iterable[str], protocol: str) -> dict[str, Node]:
    """Return the target and settings that conf/ gives some attacks, by name.

    Those that it does not have are left out.
    """
    known = sorted(set(names) & set(options_of("attack")))
    # Composing once for all: it takes a tenth of a second however little is asked for.
    cfg = compose(None, [f"+protocol={protocol}", *(f"+attack@{name}={name}" for name in known)])
    specs = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in known}
    return {
        name: {str(key): value for key, value in spec.items() if key != "images"}
        for name, spec in specs.items()
        if isinstance(spec, dict)
    }


def check_keys(given: Any, section: type, path: str = "") -> None:
    """Require that a dataclass of the schema, or one inside it, has every key that was given.

    Hydra's `+` and `++` add keys to anything. What lies in an open group `check_types` compares
    with the group's YAML file.

    Args:
        given: the section's keys and values.
        section: its dataclass.
        path: its dotted key; empty for the whole configuration.

    Raises:
        UserError: for an unknown key.
    """
    types = get_type_hints(section)
    for name, value in given.items():
        if name not in types:
            raise UserError(unknown_key(name, types, path))
        key = f"{path}.{name}".lstrip(".")
        # As in `Suite | None`, or `dict[str, CascadeConfig]`.
        kinds = (types[name], *get_args(types[name]))
        inside = [kind for kind in kinds if isinstance(kind, type) and is_dataclass(kind)]
        many = get_origin(types[name]) is dict and isinstance(value, Mapping)
        parts = {f"{key}.{each}": part for each, part in value.items()} if many else {key: value}
        for where, part in parts.items() if inside else ():
            if isinstance(part, Mapping):
                check_keys(part, inside[0], where)


def check_types(key: str, value: Any, declared: Any) -> None:
    """Require that `value` has the type of the value that a YAML file declares.

    Raises:
        UserError: for another type, an unknown or missing key, or a number that is not finite.
    """
    if value is None and key in ("suite.masking", "suite.features", "suite.images"):
        return  # this suite without it
    if isinstance(declared, Mapping):
        require(isinstance(value, Mapping), f"{key}={value} must be a group of keys")
        for name, item in value.items():
            if name not in declared:
                raise UserError(unknown_key(name, declared, key))
            check_types(f"{key}.{name}", item, declared[name])
        # A suite may do without some of its attacks; what has a target needs all it was given.
        if "_target_" in declared or key.partition(".")[0] != "suite":
            for name in declared:
                require(name in value, f"{key}.{name} is missing: leave out ~{key}.{name}")
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
