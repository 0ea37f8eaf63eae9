"""Robust accuracy against eps: of each image the worst that any attack found (suite=strong).

An adversarial image counts in every norm by its own distance, whichever norm its attack minimised
or kept to. The budgets ascend, and each attack meets only the images that have withstood all before
it, at this budget and below: what costs most is run on what is left. An attack whose `eps` is null
looks for the nearest adversarial image, which answers for all budgets: it is run at the smallest.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from funn.attacks import FeaturePGD
from funn.attacks.feature_pgd import has_encoder
from funn.build import locate
from funn.data import Images
from funn.files import write_json
from funn.metrics import wilson
from funn.provenance import provenance
from funn.records import read_table, write_table
from funn.schema import EvaluateConfig, Trial
from funn.trials import RECORDS, locate_trial, run_trial
from funn.victims import Victim, seen_as

FOLDER = "worst"
RADII, SUMMARY = "radii.parquet", "robust_accuracy.json"
NORMS = ("l0", "l2", "linf")
_SCHEMA = pa.schema([(norm, pa.float32()) for norm in NORMS])
# An image on the border of a ball may lie outside by rounding.
_ROUNDING = 1e-6
Radii = dict[str, Tensor]


def worst_case(
    config: EvaluateConfig, victim: Victim, test: Images, root: Path, done: Iterable[Path]
) -> Path:
    """Attack what the suite's other attacks have left, by `suite.cascade`, and sum up.

    Args:
        config: of the evaluation; `suite.cascade` has, by norm, `radii`, `attacks` and those
            that are `transferred` from `suite.transfer`.
        victim: the classifier.
        test: the images.
        root: the victim's folder of evaluations.
        done: records of the suite's other attacks on the same images.

    Returns:
        The file of the summary: robust accuracy, by norm and eps, with who broke how many.
    """
    assert config.suite is not None
    everyone = torch.arange(len(test.labels))
    radii: Radii = {norm: torch.full((len(everyone),), torch.inf) for norm in NORMS}
    for path in done:
        found(radii, read_table(path), everyone)
    broken: dict[str, dict[float, dict[str, int]]] = {norm: {} for norm in config.suite["cascade"]}
    for norm, part in config.suite["cascade"].items():
        tried = list(attackers(config.suite, part, victim))
        for place, eps in enumerate(sorted(part["radii"])):
            by_attack = broken[norm].setdefault(eps, {})
            for name, spec, seen in tried:
                left = survivors(radii[norm], eps)
                if not len(left):
                    break
                if spec["eps"] is not None:
                    trial = Trial(f"{name}-{eps:g}", "both", None, {**spec, "eps": eps})
                elif place == 0:
                    trial = Trial(f"{name}-{norm}", "both", None, {**spec})
                else:
                    continue
                subset = Images(test.images[left], test.labels[left])
                folder = locate_trial(root / FOLDER, trial, seen, subset)
                run_trial(trial, folder, config, seen, subset, len(test.labels))
                found(radii, read_table(folder.path / RECORDS), left)
                by_attack[name] = len(left) - len(survivors(radii[norm], eps))
    # Only now: an attack within a larger radius, or in another norm, may have found a nearer image.
    summary = {
        norm: {f"{eps:g}": at(radii[norm], eps) | {"broken": by} for eps, by in part.items()}
        for norm, part in broken.items()
    }
    write_table(root / FOLDER / RADII, pa.table({norm: radii[norm].numpy() for norm in NORMS}))
    clean = at(radii["l2"], 0.0)["robust_accuracy"]
    write_json(
        root / FOLDER / SUMMARY,
        {**summary, "clean_accuracy": clean, **victim.facts, **provenance()},
    )
    return root / FOLDER / SUMMARY


def attackers(
    suite: Mapping[str, Any], part: Mapping[str, Any], victim: Victim
) -> Iterator[tuple[str, Mapping[str, Any], Victim]]:
    """The name and settings of each attack within a radius, and the victim as it sees it.

    Those that attack another classifier come first, if `suite.transfer` names one; an attack on
    features is left out where there is no encoder.
    """
    if suite.get("transfer") is not None:
        other = seen_as(victim, suite["transfer"])
        for name, spec in part["transferred"].items():
            yield f"transferred_{name}", spec, other
    for name, spec in part["attacks"].items():
        if locate(spec) is not FeaturePGD or has_encoder(victim.model):
            yield name, spec, victim


def read_radii(path: Path) -> Radii:
    """Read the distance (N,) of each image's nearest adversarial image, by norm."""
    table = read_table(path, _SCHEMA)
    return {norm: torch.from_numpy(table[norm].to_numpy().copy()) for norm in NORMS}


def found(radii: Radii, table: pa.Table, images: Tensor) -> None:
    """Lower each image's radius to the distance of a verified adversarial image.

    Args:
        radii: by norm, (N,), infinite where nothing was found; changed in place. A clean error has
            a radius of 0.
        table: records of the attack.
        images: which of the N its rows are.
    """
    success = torch.from_numpy(table["success_verified"].to_numpy(zero_copy_only=False).copy())
    for norm in NORMS:
        distance = torch.from_numpy(table[norm].to_numpy().copy()).to(radii[norm])
        distance = distance.where(success, torch.inf)
        radii[norm][images] = torch.minimum(radii[norm][images], distance)


def survivors(radius: Tensor, eps: float) -> Tensor:
    """The images of radii (N,) that nothing within eps breaks."""
    return (radius > eps + _ROUNDING).nonzero()[:, 0]


def at(radius: Tensor, eps: float) -> dict[str, Any]:
    """Robust accuracy of radii (N,) at eps: the share of all images, with its Wilson interval."""
    left, every = len(survivors(radius, eps)), len(radius)
    return {
        "images": every,
        "robust_accuracy": left / every if every else None,
        "interval": wilson(left, every),
    }
