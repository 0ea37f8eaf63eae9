"""Where our success rates disagree with the paper's, and why.

As in `claims`, a reason has a condition, and is given only where that holds in the results.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from funn.evaluation.records.metrics import wilson
from funn.report.inputs.results import Result

# Two rates that are closer than this, in points or as a factor, are not worth a mark.
_POINTS = 0.02
_FACTOR = 2.0
# As a share of the successes: so many lost in float64 say that rounding decides.
_LOST = 0.25
# As a share of the attacked images: so many fooled leave no doubt that it can be done.
_NEARLY_ALL = 0.9
# Protocols this far apart are two different attacks.
_APART = 0.2

RULE = (
    "disagrees with the paper: its success rate lies outside the 95 % interval (Wilson) of our "
    f"tracked one, and they are more than {100 * _POINTS:.0f} points or a factor of {_FACTOR:g} "
    "apart. Noise levels are not compared. The reasons are interpretation, and shown where their "
    "condition holds."
)


class Cell(NamedTuple):
    """What a reason looks at.

    Attributes:
        paper: the paper's success rate.
        result: ours.
        protocols: our success rates under the protocols that were run.
        seeds: our success rates under the same protocol, of several seeds.
    """

    paper: float
    result: Result
    protocols: Sequence[float]
    seeds: Sequence[float]


def disagrees(paper: float | None, result: Result) -> bool:
    """Whether `RULE` holds for the paper's success rate and ours."""
    ours = result.success_rate
    if paper is None or ours is None:
        return False
    interval = wilson(round(ours * result.attacked), result.attacked)
    if interval is None or interval[0] <= paper <= interval[1]:
        return False
    low, high = sorted((float(ours), paper))
    return high - low > _POINTS or high > _FACTOR * low


def disagreements(
    paper: float | None, found: Mapping[str, Result | None], seeds: Mapping[str, Sequence[float]]
) -> dict[str, str]:
    """Mark the cells of a row that disagree with the paper.

    Args:
        paper: its success rate.
        found: our result by protocol.
        seeds: success rates of several seeds by protocol.

    Returns:
        The reason by protocol, empty where none is known; nothing where we agree.
    """
    there = {protocol: result for protocol, result in found.items() if result is not None}
    rates = [rate for result in there.values() if (rate := result.success_rate) is not None]
    reasons = {}
    for protocol, result in there.items():
        if paper is not None and disagrees(paper, result):
            cell = Cell(paper, result, rates, seeds.get(protocol, ()))
            reasons[protocol] = next((text for text, holds in _REASONS if holds(cell)), "")
    return reasons


def symbols(reasons: Mapping[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    """What marks a cell: a sign, and the number of its reason's footnote if it has one."""
    numbers = {reason: number for number, reason in enumerate(_known(reasons), start=1)}
    return {place: f"≠{numbers.get(reason, '')}" for place, reason in reasons.items()}


def footnotes(reasons: Mapping[tuple[int, int], str]) -> list[str]:
    """What the marks of a table mean, a line each; nothing if it has none."""
    lines = [f"≠{number}: {text}" for number, text in enumerate(_known(reasons), start=1)]
    return [f"≠: {RULE}", *lines] if reasons else []


def _known(reasons: Mapping[tuple[int, int], str]) -> list[str]:
    return [reason for reason in dict.fromkeys(reasons.values()) if reason]


def _trained_otherwise(cell: Cell) -> bool:
    return not cell.result.changed.keys() <= {"seed"}


def _seeds_reach_it(cell: Cell) -> bool:
    return len(cell.seeds) > 1 and min(cell.seeds) <= cell.paper <= max(cell.seeds)


def _protocols_enclose_it(cell: Cell) -> bool:
    low, high = min(cell.protocols), max(cell.protocols)
    return low < cell.paper < high and high - low > _APART


def _rounding_decides(cell: Cell) -> bool:
    tracked = cell.result.success_rate or 0.0
    verified = cell.result.success_rate_verified or 0.0
    return bool(tracked > cell.paper and tracked - verified > _LOST * tracked)


def _nearly_all_are_fooled(cell: Cell) -> bool:
    return bool((cell.result.success_rate_verified or 0.0) >= max(_NEARLY_ALL, cell.paper))


# The first that holds is given.
_REASONS: tuple[tuple[str, Callable[[Cell], bool]], ...] = (
    (
        "The encoder was trained with other settings than the paper's, which its name lists.",
        _trained_otherwise,
    ),
    ("The paper's figure lies between those of our seeds.", _seeds_reach_it),
    (
        "The paper's figure lies between ours under the two protocols, which are far apart: how "
        "the attack is written decides.",
        _protocols_enclose_it,
    ),
    (
        f"More than {100 * _LOST:.0f} % of the successes vanish in float64: the attack crosses "
        "the boundary by rounding, so this rate depends on the arithmetic.",
        _rounding_decides,
    ),
    (
        f"At least {100 * _NEARLY_ALL:.0f} % of the images are fooled, verified in float64: such "
        "images exist, whatever kept the paper's attack from them.",
        _nearly_all_are_fooled,
    ),
)
