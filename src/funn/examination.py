"""What an evaluation measures of a classifier beyond attacks one by one."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from funn.data import ImageData, Images
from funn.errors import UserError
from funn.fast_layers import with_fast_layers
from funn.feature_uses import feature_uses
from funn.files import write_json
from funn.gradient_zeros import gradient_zeros
from funn.masking_attacks import masking
from funn.provenance import provenance
from funn.reconstruction import reconstruction
from funn.schema import EvaluateConfig
from funn.stage_folder import StageFolder
from funn.trials import RECORDS
from funn.victims import Victim, seen_as
from funn.worst_case import worst_case

log = logging.getLogger(__name__)

MASKING, FEATURES = "masking.json", "features.json"


def check_extras(config: EvaluateConfig, victim: Victim) -> None:
    """Refuse early what a suite cannot do.

    Under `source=` the files of one that examines the classifier itself would stand in the place of
    the white-box ones.

    Raises:
        UserError: for a suite with `cascade`, `masking` or `features` under `source=`, or a
            `suite.transfer` that is no run.
    """
    extras = {"cascade", "masking", "features"} & (config.suite or {}).keys()
    if victim.source is not None and extras:
        raise UserError(
            "this suite examines the classifier itself: leave out source=, or take suite=table2"
        )
    transfer = (config.suite or {}).get("transfer")
    if transfer is not None:
        seen_as(victim, transfer)


def run_extras(
    config: EvaluateConfig,
    suite: Mapping[str, Any],
    victim: Victim,
    data: ImageData,
    root: Path,
    done: Sequence[StageFolder],
) -> None:
    """Do what `suite.cascade`, `suite.masking` and `suite.features` ask for.

    Args:
        config: of the evaluation.
        suite: its suite.
        victim: the classifier.
        data: the first of its test images are taken, as many as the suite says.
        root: the victim's folder of evaluations.
        done: folders of the suite's attacks, on the same images.

    Raises:
        UserError: if a suite of features is asked of a victim without an encoder.
    """
    first = config.images or suite["images"]
    few = Images(data.test.images[:first], data.test.labels[:first])
    about = {"images": len(few.labels), **victim.facts, **provenance()}
    if "cascade" in suite:
        records = [folder.path / RECORDS for folder in done]
        log.info("%s", worst_case(config, victim, few, root, records))
    if "masking" in suite:
        transfer = suite.get("transfer")
        other = None if transfer is None else seen_as(victim, transfer).source
        seen = with_fast_layers(victim.model)
        found = masking(seen, few, config.batch_size, suite["masking"]["controls"], other)
        write_json(root / MASKING, found | about)
    if "features" in suite:
        encoder = getattr(with_fast_layers(victim.model), "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise UserError(f"{victim.name} has no encoder: suite=features needs one")
        uses = feature_uses(encoder, data.train, few, **suite["features"])
        write_json(root / FEATURES, uses | about)


def describe_victim(victim: Victim, data: ImageData, config: EvaluateConfig, root: Path) -> None:
    """Measure what every evaluation shows of a classifier, once."""
    gradients, errors = root / "gradients.json", root / "reconstruction.json"
    if not (config.reuse and gradients.exists()):
        seen = with_fast_layers(victim.model)
        write_json(gradients, gradient_zeros(seen, data.test, config.batch_size))
    if victim.run is not None and not (config.reuse and errors.exists()):
        write_json(errors, reconstruction(victim.run, data.test))
