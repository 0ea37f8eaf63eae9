"""How many images a suite attacks: the one rule, for attacks and for all else that it measures."""

from collections.abc import Iterable

from funn.config.schema import EvaluateConfig, Trial


def how_many_images(config: EvaluateConfig, own: int | None = None) -> int | None:
    """Of how many of the first test images an attack, or a study of the classifier, is made.

    The first of these that is given: `images=N` as it was typed, `suite.images`, the attack's own
    `images` in conf/attack/NAME.yaml. So one number holds for a whole suite, whose figures are then
    of the same images; only a suite with `images: null` leaves it to its attacks.

    Args:
        config: of the evaluation.
        own: the attack's own number; None if it has none, as a study.

    Returns:
        The number; None for all test images. (Of fewer test images, all are taken.)
    """
    suite = None if config.suite is None else config.suite.images
    return next((count for count in (config.images, suite, own) if count is not None), None)


def most_images(config: EvaluateConfig, trials: Iterable[Trial]) -> int | None:
    """How many of the first test images anything of an evaluation needs; None for all."""
    counts = [how_many_images(config, trial.images) for trial in trials]
    if config.suite is not None:
        counts.append(how_many_images(config))
    known = [count for count in counts if count is not None]
    return max(known) if len(known) == len(counts) else None
