"""The readable name of what was trained or attacked: what it is, and what is unusual about it.

The usual is what conf/ declares on the day; the name is written beside the result, so that a later
change of conf/ changes no name.
"""

from collections.abc import Mapping
from typing import Any


def differences(found: Any, declared: Any, key: str = "") -> dict[str, Any]:
    """Return what of a nested mapping differs from a second, by dotted key.

    A key that only the second has is no difference. A class is named without its module.
    """
    if isinstance(found, Mapping):
        usual = declared if isinstance(declared, Mapping) else {}
        prefix = f"{key}." if key else ""
        changed: dict[str, Any] = {}
        for name, value in found.items():
            changed |= differences(value, usual.get(name), f"{prefix}{name}")
        return changed
    if found == declared:
        return {}
    return {key: str(found).rpartition(".")[2] if key.endswith("_target_") else found}


def titled(name: str, changed: Mapping[str, Any]) -> str:
    """A name with what is unusual about it, as it is typed: `funn (head=margin, seed=1)`."""
    said = ", ".join(f"{key}={value}" for key, value in changed.items())
    return f"{name} ({said})" if said else name
