"""What is attacked: a trained run of ours, or a user's own classifier."""

import hashlib
import logging
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from funn.artifacts.layout import CHECKPOINT
from funn.data.dataset import ImageData
from funn.errors import UserError
from funn.evaluation.records.verification import float64_verifier
from funn.fast_layers import with_fast_layers
from funn.loading import Run, find_run, load_classifier
from funn.runtime.seeding import seeded
from funn.training.checkpoint import weights_digest
from funn.training.code_behind import code_behind, defining_module
from funn.training.fingerprint import fingerprint

log = logging.getLogger(__name__)

# Test images whose logits stand for a classifier's behaviour, and on which its faster layers are
# compared with its own.
_PROBE = 16
# Logits are told apart by steps of a millionth of the largest: float64 is a billion times as exact.
_DIGITS = 1e6


def named(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What results call a victim: of its facts, those that depend on what conf/ declares."""
    return {name: facts[name] for name in ("title", "changed") if name in facts}


@dataclass(frozen=True)
class Victim:
    """A classifier under attack.

    Attributes:
        name: names its folder under outputs/eval: its own name, and a hash of what it is and of the
            data set, so that another model of the same name is another victim.
        model: images (N, C, H, W) in [0, 1] to logits (N, classes), in eval mode.
        digest: of its weights, its code and its logits on the data's first test images; under
            `source` of that classifier's too.
        run: the finished run that it is; None for a user's own.
        facts: what its results say of it: defence, seed, checkpoints, data set.
        probe: a few test images (N, C, H, W) in [0, 1].
        source: the classifier that an attacker sees who does not know of the defence; None where
            the attacker sees this one.
    """

    name: str
    model: nn.Module
    digest: str
    run: Run | None
    facts: dict[str, Any]
    probe: Tensor
    source: "Victim | None" = None

    @cached_property
    def fast(self) -> nn.Module:
        """A copy of the model whose layers are in their faster forms, for attacks."""
        return with_fast_layers(self.model, self.probe)

    @cached_property
    def judge(self) -> nn.Module:
        """A float64 copy of the model, which says what a returned image really is."""
        return float64_verifier(self.model)

    @property
    def title(self) -> str:
        """What the user calls it."""
        return str(self.facts["defense"]) if self.run is None else self.run.name

    @property
    def seen(self) -> "Victim":
        """The classifier that the attacker sees."""
        return self if self.source is None else self.source


def trained(run: Run, data: ImageData, changed_code: bool = False) -> Victim:
    """Return the classifier of a run.

    Args:
        run: a finished one.
        data: what it is attacked on.
        changed_code: take it though the code of its networks has changed since it was trained.

    Raises:
        UserError: if its checkpoint is damaged, or its code has changed.
    """
    result = run.result
    model = load_classifier(run.folder, changed_code)
    own = {
        "stage": result["stage"],
        "path": f"{run.name}/{result['stage']}/{CHECKPOINT}",
        "sha256": result["checkpoint_sha256"],
    }
    facts = {
        "defense": result["defense"],
        "title": run.title,
        "changed": run.changed,
        "seed": result["seed"],
        "parents": [own, *result["parents"]],
        "trained": result["config"],
        "settings_trained": result["settings"],
    }
    return _identified(run.name, model, run, facts, data, _kinds(model))


def own(name: str, data: ImageData) -> Victim:
    """Return a user's classifier.

    Args:
        name: `package.module:callable`, where the callable is a `torch.nn.Module`, or returns one
            when called without arguments. Modules in the working directory are found.
        data: what it is attacked on.

    Raises:
        UserError: if it cannot be imported or is no classifier.
    """
    if ":" not in name:
        raise UserError(f"victim={name} must be package.module:callable")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"victim={name} cannot be imported: {error}") from error
    model = found if isinstance(found, nn.Module) else found()
    if not isinstance(model, nn.Module):
        raise UserError(f"victim={name} gives a {type(model).__name__}, not a torch.nn.Module")
    label = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)
    facts: dict[str, Any] = {
        "defense": name,
        "title": name,
        "changed": {},
        "seed": None,
        "parents": [],
        "trained": None,
        "settings_trained": None,
    }
    roots = [defining_module(name.replace(":", ".")), *_kinds(model)]
    return _identified(label, model.eval(), None, facts, data, roots)


def _identified(
    name: str,
    model: nn.Module,
    run: Run | None,
    facts: dict[str, Any],
    data: ImageData,
    code: Iterable[str],
) -> Victim:
    """A victim with the digest of all that it is, and the data set that it is attacked on."""
    probe = data.test.floats(_PROBE)
    identity = {
        "weights": weights_digest(model),
        "logits": behaviour(model, probe),
        **code_behind(code).facts(),
    }
    digest = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()
    about = data.described()
    whole = f"{name}-{fingerprint({'classifier': digest, 'data': about['sha256']})}"
    facts = {"run": whole, **facts, "data": about, "classifier_sha256": digest, "source": None}
    return Victim(whole, model, digest, run, facts, probe)


@torch.no_grad()
def behaviour(model: nn.Module, images: Tensor) -> str | None:
    """Hash what a classifier makes of a few images, in float64 and rounded.

    It stands for code and values that no other hash sees: a file that `forward` reads, a tensor
    that is no buffer. What the model draws from torch's global generator is drawn alike each time.

    Args:
        model: images to logits, in eval mode.
        images: (N, C, H, W) in [0, 1].

    Returns:
        The SHA-256 of the rounded logits; None if it cannot be run (`victim_checks` tells).
    """
    try:
        with seeded("behaviour"):
            logits = float64_verifier(model)(images.double())
        steps = (logits * (_DIGITS / logits.abs().max().clamp(min=1e-300))).round().long()
    except Exception:  # whatever a user's code raises: the check that follows says it
        return None
    return hashlib.sha256(f"{tuple(steps.shape)} {steps.flatten().tolist()}".encode()).hexdigest()


def _kinds(model: nn.Module) -> list[str]:
    """The modules that define the classes of a network and of all its parts."""
    kinds = {kind.__module__ for part in model.modules() for kind in type(part).__mro__}
    return sorted(kinds - {"builtins"})


def seen_as(victim: Victim, source: str, data: ImageData, changed_code: bool = False) -> Victim:
    """Return the victim with the classifier that an oblivious attacker sees instead of it.

    Args:
        victim: the defended classifier.
        source: a run folder, or "bare": the classifier behind the victim's own defence.
        data: what the victim is attacked on.
        changed_code: take the source though its code has changed since it was trained.

    Raises:
        UserError: if there is no such classifier.
    """
    if source == "bare":
        bare = getattr(victim.model, "classifier", None)
        if not isinstance(bare, nn.Module):
            raise UserError(
                f"{victim.title} has no bare classifier behind its defence: give a run, such as "
                "source=outputs/latest/classic"
            )
        name = f"{victim.title}/bare"
        other = replace(victim, name=name, model=bare, digest=f"{victim.digest} bare")
    else:
        run = find_run(source)
        name, other = run.name, trained(run, data, changed_code)
    return replace(
        victim,
        source=other,
        digest=hashlib.sha256(f"{victim.digest} {other.digest}".encode()).hexdigest(),
        facts={**victim.facts, "source": name},
    )
