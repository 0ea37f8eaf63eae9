"""What is attacked: a trained run of ours, or a user's own classifier."""

import hashlib
import pkgutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from funn.errors import UserError
from funn.loading import Run, find_run, load_classifier
from funn.records import referee
from funn.stage_folder import CHECKPOINT


@dataclass(frozen=True)
class Victim:
    """A classifier under attack.

    Attributes:
        name: names its folder under outputs/eval.
        model: images (N, C, H, W) in [0, 1] to logits (N, classes), in eval mode.
        digest: SHA-256 of its checkpoint, or of its weights.
        run: the finished run that it is; None for a user's own.
        source: the classifier that an attacker sees who does not know of the defence; None where
            the attacker sees `model` itself.
        facts: what its results say of it: defence, seed, checkpoints.
    """

    name: str
    model: nn.Module
    digest: str
    run: Run | None
    facts: dict[str, Any]
    source: nn.Module | None = None


def trained(path: str) -> Victim:
    """Return the classifier of a run folder.

    Raises:
        UserError: if there is none, or its checkpoint is damaged.
    """
    run = find_run(path)
    result = run.result
    own = {
        "stage": result["stage"],
        "path": f"{run.name}/{result['stage']}/{CHECKPOINT}",
        "sha256": result["checkpoint_sha256"],
    }
    facts = {
        "run": run.name,
        "defense": result["defense"],
        "seed": result["seed"],
        "parents": [own, *result["parents"]],
        "trained": result["config"],
        "settings_trained": result["settings"],
        "source": None,
    }
    return Victim(run.name, load_classifier(run.folder), own["sha256"], run, facts)


def own(name: str) -> Victim:
    """Return a user's classifier.

    Args:
        name: `package.module:callable`, where the callable is a `torch.nn.Module`, or returns one
            when called without arguments. Modules in the working directory are found.

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
    digest = hashlib.sha256(name.encode())
    for key, value in model.state_dict().items():
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    label = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)
    facts: dict[str, Any] = {
        "run": name,
        "defense": name,
        "seed": None,
        "parents": [],
        "trained": None,
        "settings_trained": None,
        "source": None,
    }
    return Victim(label, model.eval(), digest.hexdigest(), None, facts)


def seen_as(victim: Victim, source: str) -> Victim:
    """Return the victim with the classifier that an oblivious attacker sees instead of it.

    Args:
        victim: the defended classifier.
        source: a run folder, or "bare": the classifier behind the victim's own defence.

    Raises:
        UserError: if there is no such classifier.
    """
    if source == "bare":
        bare = getattr(victim.model, "classifier", None)
        if not isinstance(bare, nn.Module):
            raise UserError(
                f"{victim.name} has no bare classifier behind its defence: give a run, such as "
                "source=outputs/latest/classic"
            )
        name, digest = f"{victim.name}/bare", "bare"
    else:
        run = find_run(source)
        name, digest = run.name, run.result["checkpoint_sha256"]
        bare = load_classifier(run.folder)
    return replace(
        victim,
        source=bare,
        digest=hashlib.sha256(f"{victim.digest} {digest}".encode()).hexdigest(),
        facts={**victim.facts, "source": name},
    )


@torch.no_grad()
def check(victim: Victim, images: Tensor, labels: Tensor) -> None:
    """Require that a classifier gives logits, in float32 and, for verification, in float64.

    Args:
        victim: whom to check.
        images: a few images (N, C, H, W) in [0, 1].
        labels: all labels that are attacked.

    Raises:
        UserError: for outputs of another shape, probabilities, or what cannot be run.
    """
    try:
        logits = victim.model(images)
        referee(victim.model)(images.double())
    except Exception as error:  # whatever a user's code raises
        raise UserError(f"{victim.name} cannot classify {tuple(images.shape)}: {error}") from error
    classes = int(labels.max()) + 1
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < classes:
        raise UserError(
            f"{victim.name} gives outputs {tuple(logits.shape)}, not ({len(images)}, "
            f"{classes} classes or more)"
        )
    if not bool(logits.isfinite().all()):
        raise UserError(f"{victim.name} gives outputs that are not finite numbers")
    if bool((logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 1e-4):
        raise UserError(f"{victim.name} gives probabilities: return the logits before the softmax")
