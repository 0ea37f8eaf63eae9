"""Robust accuracy against eps: of each image the worst that any attack found (suite=strong).

An adversarial image counts in every norm by its own distance, whichever norm its attack minimised
or kept to. The budgets ascend, and each attack meets only the images that have withstood all before
it, at this budget and below: what costs most is run on what is left. An attack whose `eps` is null
looks for the nearest adversarial image, which answers for all budgets: it is run at the smallest.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from funn.artifacts.files import read_json
from funn.artifacts.folder import StageFolder
from funn.artifacts.layout import RADII, RECORDS, RESULT, ROBUST, cascade_folder
from funn.attacks import FeaturePGD
from funn.attacks.fixed_budget.feature_pgd import has_encoder
from funn.config.build import locate
from funn.config.schema import EvaluateConfig, Trial
from funn.config.suite import CascadeConfig, Node
from funn.data.images import Images
from funn.evaluation.records.metrics import interval, percent
from funn.evaluation.records.radii import NORMS, Radii, at, found, survivors, write_radii
from funn.evaluation.records.table import read_table
from funn.evaluation.studies import Once, study
from funn.evaluation.trials.trial import locate_trial, run_trial
from funn.evaluation.victims import Victim

log = logging.getLogger(__name__)

# The norms that a cascade keeps to, as they are written.
NORM_NAMES = {"l2": "L2", "linf": "Linf"}


class _Cascade:
    """What attacks have left so far.

    Args:
        config: of the evaluation.
        victim: the classifier.
        test: the images.
        predictions: the classifier's, of these at least (M,).
        root: the victim's folder of evaluations.
        track: is called with the folder of each attack once it is finished.

    Attributes:
        radii: by norm, the distance (N,) of each image's nearest adversarial image so far.
        records: fingerprints of all records that they come from.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        victim: Victim,
        test: Images,
        predictions: Tensor,
        root: Path,
        track: Callable[[Path], None],
    ) -> None:
        self.config, self.victim, self.test, self.root = config, victim, test, root
        self.predictions, self.track = predictions, track
        everyone = len(test.labels)
        self.radii: Radii = {norm: torch.full((everyone,), torch.inf) for norm in NORMS}
        self.records: list[str] = []

    def add(self, folder: StageFolder, images: Tensor) -> None:
        """Lower the radii by the records of some images (M,)."""
        found(self.radii, read_table(folder.path / RECORDS), images)
        self.records.append(folder.fingerprint)

    def attack(self, trial: Trial, seen: Victim, left: Tensor) -> None:
        """Attack some images (M,) of the victim, as an attacker sees it."""
        subset = Images(self.test.images[left], self.test.labels[left])
        folder = locate_trial(cascade_folder(self.root), trial, seen, subset)
        clean, every = self.predictions[left], self.victim.facts["data"]["test_images"]
        run_trial(trial, folder, self.config, seen, subset, clean, every)
        self.track(folder.path)
        self.add(folder, left)

    def within(
        self, norm: str, eps: float, first: bool, tried: Iterable[tuple[str, Node, Victim]]
    ) -> dict[str, int]:
        """Attack what is left within eps; say how many images each attack has broken."""
        by_attack = {}
        threat = f"{NORM_NAMES[norm]} {eps:g}"
        left = survivors(self.radii[norm], eps)
        log.info("%s: %s before its attacks", threat, self._withstood(len(left)))
        for name, spec, seen in tried:
            if not len(left):
                break
            if spec["eps"] is not None:
                trial = Trial(f"{name}-{eps:g}", "both", None, {**spec, "eps": eps})
            elif first:
                trial = Trial(f"{name}-{norm}", "both", None, {**spec})
            else:
                continue
            self.attack(trial, seen, left)
            before, left = len(left), survivors(self.radii[norm], eps)
            by_attack[name] = before - len(left)
            log.info(
                "%s, %s: %d images left, %d of them broken; %s",
                threat, name, before, by_attack[name], self._withstood(len(left)),
            )  # fmt: skip
        return by_attack

    def _withstood(self, left: int) -> str:
        every = len(self.test.labels)
        return f"robust accuracy {percent(left / every if every else None)} ({left} of {every})"


def robust_accuracy(
    config: EvaluateConfig,
    asked: Mapping[str, CascadeConfig],
    victim: Victim,
    test: Images,
    predictions: Tensor,
    transfer: Victim | None,
    root: Path,
    done: Iterable[StageFolder],
    track: Callable[[Path], None],
) -> Path:
    """Attack what the suite's other attacks have left, by `suite.cascade`, and sum up.

    Args:
        config: of the evaluation.
        asked: its `suite.cascade`, by norm.
        victim: the classifier.
        test: the images.
        predictions: the classifier's, of these at least (M,).
        transfer: the victim as who attacks another classifier sees it.
        root: the victim's folder of evaluations.
        done: the suite's other attacks on the same images.
        track: is called with the folder of each attack once it is finished.

    Returns:
        The folder of the summary: robust accuracy, by norm and eps, with who broke how many.
    """
    cascade = _Cascade(config, victim, test, predictions, root, track)
    for folder in done:
        cascade.add(folder, torch.arange(len(test.labels)))
    broken: dict[str, dict[float, dict[str, int]]] = {}
    for norm, part in asked.items():
        tried = list(attackers(part, victim, transfer))
        radii = sorted(part.radii)
        broken[norm] = {eps: cascade.within(norm, eps, eps == radii[0], tried) for eps in radii}

    def work(folder: StageFolder, once: Once) -> Mapping[str, Any]:
        del once
        # Only now: an attack within a larger radius, or in another norm, may have found a nearer
        # image.
        radii = cascade.radii
        write_radii(folder.path / RADII, radii)
        return {
            norm: {f"{eps:g}": at(radii[norm], eps) | {"broken": by} for eps, by in part.items()}
            for norm, part in broken.items()
        } | {"clean_accuracy": at(radii["l2"], 0.0)["robust_accuracy"]}

    # The records' fingerprints hold all the rest: classifier, attacks, images and code.
    budgets = {norm: list(part) for norm, part in broken.items()}
    settings = {"radii": budgets, "records": cascade.records}
    modules = ["funn.evaluation.robust_accuracy"]
    folder = study(ROBUST, root, victim, test, settings, modules, work, config.reuse)
    for line in told(read_json(folder.path / RESULT) or {}):
        log.info("%s", line)
    return folder.path


def told(summary: Mapping[str, Any]) -> list[str]:
    """The summary as a table of lines for the terminal, a row for each norm and eps."""
    rows = [("threat", "robust accuracy", "95 % interval", "broken by")]
    for norm, name in NORM_NAMES.items():
        for eps, cell in summary.get(norm, {}).items():
            broken = [f"{attack} {count}" for attack, count in cell["broken"].items() if count]
            rows.append(
                (
                    f"{name} {eps}",
                    percent(cell["robust_accuracy"]),
                    interval(cell["interval"]),
                    ", ".join(broken) or "-",
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def attackers(
    part: CascadeConfig, victim: Victim, transfer: Victim | None
) -> Iterator[tuple[str, Node, Victim]]:
    """The name and settings of each attack within a radius, and the victim as it sees it.

    Those that attack another classifier come first, if there is one; an attack on features is left
    out where there is no encoder.
    """
    if transfer is not None:
        for name, spec in part.transferred.items():
            yield f"transferred_{name}", spec, transfer
    for name, spec in part.attacks.items():
        if locate(spec) is not FeaturePGD or has_encoder(victim.model):
            yield name, spec, victim
