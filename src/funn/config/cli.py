"""How the commands meet the user: one line for a mistake, an exit code for a signal."""

import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from funn.config.schema import unknown_key
from funn.errors import UserError
from funn.runtime.malloc import keep_freed_memory

log = logging.getLogger(__name__)

_MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)
# Where the explanation that a user needs ends and Hydra's or OmegaConf's trailer begins.
_TRAILERS = ("Config search path:", "full_key:", "object_type=", "See https://hydra.cc")


def run(main: Callable[[], object]) -> None:
    """Run a Hydra main: a user's mistake ends with one clear line and exit code 2.

    SIGTERM and Ctrl-C end with 128 + the signal's number and stop a sweep (Lightning alone would
    end with 0 on SIGTERM).
    """
    # With it set Hydra leaves its errors to us instead of printing several lines itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # The jobs that a launcher starts elsewhere know nothing of this script's folder.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        main()
    except Exception as error:
        told = mistake(error)
        if told is None:
            raise
        _fail(told)


def mistake(error: Exception) -> str | None:
    """What to tell a user who typed something wrong, on one line; None if the error is ours."""
    if isinstance(error, _MISTAKES):
        return _put_into_nothing(sys.argv[1:]) or one_line(error)
    # Hydra and OmegaConf have errors of many types for what they cannot put together.
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    if {"hydra", "omegaconf"} & set(Path(where).parts):
        return _too_early(sys.argv[1:]) or f"{one_line(error)} (--cfg job lists the keys)"
    return None


def _put_into_nothing(overrides: Sequence[str]) -> str | None:
    """What to type for an attack that is put into a suite, where no suite is chosen."""
    for key in (override.partition("=")[0].lstrip("+") for override in overrides):
        group = key.partition("@")[2].partition(".")[0]
        if group == "suite" and not any(each.startswith("suite=") for each in overrides):
            return "suite is not chosen: give suite=NAME"
    return None


def _too_early(overrides: Sequence[str]) -> str | None:
    """What to type for a key of a group of which one option is not chosen: none is, or several are.

    Hydra composes the configuration without the groups that are swept before it looks at any job.
    """
    chosen = dict(part.split("=", 1) for part in overrides if "=" in part)
    for key, value in chosen.items():
        study = re.match(r"\+{0,2}suite\.(masking|features)\b", key)
        if study and "suite" in chosen:
            return f"suite={chosen['suite']} has no {study[1]}: take suite={study[1]}"
        group, dot, _ = key.lstrip("+").partition(".")
        if not dot or "(" in value:
            continue
        if "," in chosen.get(group, ""):
            return f"in a sweep of {group}= type {key}=choice({value})"
        if group not in chosen and group in ("attack", "suite"):
            return f"{key.lstrip('+')}={value} has nothing to change: add {group}=NAME"
    return None


def job(work: Callable[[], object]) -> None:
    """Do the work of one job of a command.

    A job that fails in a sweep leaves its traceback in its log; Hydra's launcher goes on with the
    others, and the command ends with an error.
    """
    keep_freed_memory()
    try:
        work()
    except _MISTAKES as error:
        if _in_sweep():
            log.error("job failed: %s", one_line(error))
            raise
        # Leaving here, for Hydra would print the overrides first.
        _fail(one_line(error))
    except Exception:
        if _in_sweep():
            log.exception("job failed")
        raise


def _fail(told: str) -> NoReturn:
    print(f"error: {told}", file=sys.stderr)
    sys.exit(2)


def one_line(error: BaseException) -> str:
    """The message of an exception on one line: what is wrong, and what to type instead."""
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason} (output_dir= and data_dir= choose other folders)"
    text = _flat(error)
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown:
        cause = error.__cause__  # says where the key ends that nothing knows
        path, _, name = (getattr(cause, "full_key", None) or unknown[1]).rpartition(".")
        return unknown_key(name, getattr(cause, "parent_node", None) or (), path)
    kept = re.match(r"Error merging override ~(\S+)", text)
    if kept:
        return f"~{kept[1]}: it cannot be removed; give {kept[1]}=null, or [] where it is a list"
    if text.startswith("Error merging override") and error.__cause__ is not None:
        return f"{text.removeprefix('Error merging override ')}: {_flat(error.__cause__)}"
    return text or type(error).__name__


def _flat(error: BaseException) -> str:
    text = " ".join(str(error).split())
    for trailer in _TRAILERS:
        text = text.partition(trailer)[0]
    before, found, options = text.partition("Available options in ")
    if found:
        group, _, names = options.partition(": ")
        text = f"{before.strip()}. {group.strip(chr(39))} can be {', '.join(names.split())}"
    return text.strip()


def _in_sweep() -> bool:
    mode = HydraConfig.get().mode
    return mode is not None and mode.name == "MULTIRUN"


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    name = signal.Signals(number).name
    print(f"\n{name}: stopped; run the same command again to go on", file=sys.stderr)
    sys.exit(128 + number)
