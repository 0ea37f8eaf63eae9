"""What the results say of the paper's claim, in words that follow from the numbers.

Each finding has a condition; where it does not hold in the results, the finding is not shown.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from funn.evaluation.records.metrics import noise, percent
from funn.report.inputs.paper import ITERATIONS, TABLE_1
from funn.report.inputs.results import Result, find

# An attack that fools no more than this share of the images has met a robust classifier: far above
# the paper's 0.54 and 4.13 %, far below what DeepFool does to an undefended network.
_ROBUST = 0.2
# Less of a difference than this, as a share of the images, is not worth a sentence.
_WORTH_SAYING = 0.05
_DEEPFOOL = [row for row in (*TABLE_1, *ITERATIONS) if row.attack.startswith("deepfool")]


class Finding(NamedTuple):
    """A sentence about the results.

    Attributes:
        text: the sentence.
        interpretation: whether it explains, where the others state.
    """

    text: str
    interpretation: bool = False


def findings(results: Sequence[Result], runs: Mapping[str, str]) -> list[Finding]:
    """Say what holds.

    Args:
        results: of every attack. Only those on MNIST, of trainings as conf/ declares them but for
            the seed, say anything of the paper's claim.
        runs: the run that stands for each defence.
    """
    results = [
        result
        for result in results
        if result.data["name"] == "MNIST" and result.changed.keys() <= {"seed"}
    ]
    return [*_claim(results, runs), *_noise(results, runs), *_rounding(results, runs)]


def _claim(results: Sequence[Result], runs: Mapping[str, str]) -> list[Finding]:
    """Whether FUNN withstands DeepFool, under each protocol."""
    found = []
    for protocol in ("foolbox1", "strict"):
        pairs = [
            (row, result)
            for row in _DEEPFOOL
            if (result := find(results, runs.get("funn", ""), row, protocol)) is not None
        ]
        if not pairs:
            continue
        holds = all(
            result.success_rate is not None and result.success_rate <= _ROBUST
            for row, result in pairs
            if (row.cells["funn"].success_rate or 0) <= _ROBUST  # 89.20 % is against the claim
        )
        figures = "; ".join(
            f"{row.title} {percent(result.success_rate)} (paper: "
            f"{percent(row.cells['funn'].success_rate)})"
            for row, result in pairs
        )
        verdict = "holds" if holds else "does not hold"
        found.append(
            Finding(
                f"Under {protocol} the claim that FUNN is robust against DeepFool {verdict}. "
                f"DeepFool fools FUNN: {figures}."
            )
        )
    return found


def _noise(results: Sequence[Result], runs: Mapping[str, str]) -> list[Finding]:
    """Whether FUNN needs more noise than the classic encoder."""
    found = []
    for row in _DEEPFOOL:
        cells = [find(results, runs.get(name, ""), row, "strict") for name in ("funn", "classic")]
        if "classic" not in row.cells or None in cells:
            continue
        ours, classic = (cell.noise_level for cell in cells if cell is not None)
        if ours is None or classic is None:
            continue
        comparison = "less" if ours < classic else "more"
        found.append(
            Finding(
                f"{row.title}, strict: FUNN is fooled with {comparison} noise than the classic "
                f"encoder, {noise(ours)} against {noise(classic)}."
            )
        )
    return found


def _rounding(results: Sequence[Result], runs: Mapping[str, str]) -> list[Finding]:
    """Whether successes of the paper's tool vanish in float64."""
    lost = [
        (row, (result.success_rate or 0.0) - (result.success_rate_verified or 0.0))
        for row in _DEEPFOOL
        if (result := find(results, runs.get("funn", ""), row, "foolbox1")) is not None
    ]
    most = max((share for _, share in lost), default=0.0)
    if most < _WORTH_SAYING:
        return []
    return [
        Finding(
            f"Up to {percent(most)} of the images are fooled under foolbox1 in float32 only. "
            "DeepFool with a clip after every step creeps to the boundary from inside and crosses "
            "it by rounding, so its success rate there measures arithmetic rather than robustness.",
            interpretation=True,
        )
    ]
