"""What an evaluation measures of a classifier beyond attacks one by one."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from funn.artifacts.files import read_json
from funn.artifacts.folder import StageFolder
from funn.artifacts.layout import FEATURES, GRADIENTS, MASKING, RESULT
from funn.attacks.fixed_budget.feature_pgd import has_encoder
from funn.config.schema import EvaluateConfig
from funn.config.suite import FeaturesConfig, MaskingConfig, Suite
from funn.data.dataset import ImageData
from funn.data.images import Images
from funn.errors import UserError
from funn.evaluation.feature_quality import feature_uses
from funn.evaluation.gradient_masking.examine import masking, tell
from funn.evaluation.gradient_masking.zero_gradients import FIRST, gradient_zeros
from funn.evaluation.robust_accuracy import robust_accuracy
from funn.evaluation.studies import Once, study
from funn.evaluation.victim_checks import check
from funn.evaluation.victims import Victim, seen_as

log = logging.getLogger(__name__)


def transferred_from(config: EvaluateConfig, victim: Victim, data: ImageData) -> Victim | None:
    """Refuse early what a suite cannot do; return the victim seen as `suite.transfer`, if any.

    Raises:
        UserError: for a suite with `cascade`, `masking` or `features` under `source=`, a suite of
            features for a classifier without an encoder, or a `suite.transfer` that is no run.
    """
    suite = config.suite
    if suite is None:
        return None
    if victim.source is not None and suite.examines_the_classifier:
        raise UserError(
            "this suite examines the classifier itself: leave out source=, or take suite=table2"
        )
    if suite.features is not None and not has_encoder(victim.model):
        raise UserError(f"{victim.title} has no encoder: suite=features needs one")
    if suite.transfer is None:
        return None
    other = seen_as(victim, suite.transfer, data, config.changed_code)
    check(other.seen, data)
    return other


def run_extras(
    config: EvaluateConfig,
    suite: Suite,
    victim: Victim,
    data: ImageData,
    test: Images,
    predictions: Tensor,
    transfer: Victim | None,
    root: Path,
    done: Sequence[StageFolder],
    track: Callable[[Path], None],
) -> None:
    """Do what `suite.cascade`, `suite.masking` and `suite.features` ask for.

    Args:
        config: of the evaluation.
        suite: its suite.
        victim: the classifier.
        data: its data set, whose training images some uses of the features need.
        test: the images.
        predictions: the classifier's, of these at least (M,).
        transfer: the victim as who attacks another classifier sees it.
        root: the victim's folder of evaluations.
        done: the suite's attacks, on the same images.
        track: is called with the folder of each attack and study once it is finished.
    """
    found = []
    if suite.cascade:
        asked = suite.cascade
        found.append(
            robust_accuracy(config, asked, victim, test, predictions, transfer, root, done, track)
        )
    if suite.masking is not None:
        found.append(_examine_masking(config, suite.masking, victim, test, transfer, root))
    if suite.features is not None:
        found.append(_examine_features(config, suite.features, victim, data, test, root))
    for path in found:
        log.info("%s", path / RESULT)
        track(path)


def _examine_masking(
    config: EvaluateConfig,
    settings: MaskingConfig,
    victim: Victim,
    test: Images,
    transfer: Victim | None,
    root: Path,
) -> Path:
    def work(folder: StageFolder, once: Once) -> Mapping[str, Any]:
        del folder
        other = None if transfer is None else transfer.seen.model
        return masking(victim.fast, test, config.batch_size, settings.controls, other, once)

    facts = {**asdict(settings), "transfer": None if transfer is None else transfer.digest}
    modules = ["funn.evaluation.gradient_masking.examine"]
    folder = study(MASKING, root, victim, test, facts, modules, work, config.reuse)
    tell(read_json(folder.path / RESULT) or {})
    return folder.path


def _examine_features(
    config: EvaluateConfig,
    settings: FeaturesConfig,
    victim: Victim,
    data: ImageData,
    test: Images,
    root: Path,
) -> Path:
    def work(folder: StageFolder, once: Once) -> Mapping[str, Any]:
        del folder
        encoder = victim.fast.encoder
        assert isinstance(encoder, nn.Module)
        return feature_uses(encoder, data.train, test, once, **asked)

    asked = asdict(settings)
    facts = {**asked, "gallery": data.train.checksum()}
    modules = ["funn.evaluation.feature_quality"]
    return study(FEATURES, root, victim, test, facts, modules, work, config.reuse).path


def describe_victim(victim: Victim, data: ImageData, config: EvaluateConfig, root: Path) -> None:
    """Measure what every evaluation shows of a classifier; tell of gradients that are zero."""
    few = Images(data.test.images[:FIRST], data.test.labels[:FIRST])
    folder = study(
        GRADIENTS, root, victim, few, {}, ["funn.evaluation.gradient_masking.zero_gradients"],
        lambda folder, once: gradient_zeros(victim.fast, few, config.batch_size), config.reuse,
    )  # fmt: skip
    found = read_json(folder.path / RESULT) or {}
    for loss in ("cross_entropy", "margin"):
        zero = round(found[loss]["all_zero"] * found["images"])
        if zero:
            log.warning(
                "%d of %d images have a gradient of the %s that is exactly zero: attacks that "
                "climb it are blind there, which is no robustness (suite=masking looks closer)",
                zero, found["images"], loss.replace("_", "-"),
            )  # fmt: skip
