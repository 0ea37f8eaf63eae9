"""Fingerprints: the hash of all that a result depends on, which names its folder."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Told in words of their own, or by the folder's name.
_TOLD = ("stage", "code", "packages")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Hash plain values to ten hex digits: the same facts give the same, in whatever order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


def told(facts: Mapping[str, Any]) -> str:
    """What a fingerprint compared, for the line that says "reused"."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    names = [name for name, value in facts.items() if value is not None and name not in _TOLD]
    return f"the same {', '.join(names)}, code of {len(facts['code'])} modules, {packages}"
