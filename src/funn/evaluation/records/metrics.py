"""From per-image records to the figures of a table (definitions: `Summary`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

# A success whose |margin| is below this is rounding rather than attack.
ROUNDING_MARGIN = 1e-4


@dataclass(frozen=True)
class Summary:
    """The figures of one attack on one classifier, over N images. None stands for 0 / 0.

    Denominators are the images that the classifier gets right, which are attacked: clean errors
    are reported, not attacked. A success is tracked (the attack saw a wrong prediction) or verified
    (see `verification`). Intervals are Wilson's, of 95 %.

    Attributes:
        images: N.
        attacked: those that are classified right, also by the classifier that the attack saw.
        clean_accuracy: share of the images that are classified right.
        clean_rejected: share of the clean images that a detector rejects.
        successes: tracked.
        success_rate: the same, of the attacked images.
        success_interval: of that rate.
        successes_verified: verified.
        success_rate_verified: the same, of the attacked images.
        success_interval_verified: of that rate.
        success_rate_undetected: of verified successes that no detector rejects.
        noise_level: mean L2 norm of x - adv over tracked successes (Eq. 9); not an mse.
        noise_level_verified: the same over verified successes.
        median_l2: median L2 norm, failures counted as infinite; None where it is infinite.
        median_l2_verified: the same by verified successes.
        rounding_share: share of tracked successes whose |margin| is below 1e-4.
        unexplained: tracked successes that the float64 verifier denies by more than rounding.
        blind_failures: failures of images that the attack had no gradient for.
        rounding_decided: attacked images that came so close to the boundary on their way that
            another batch size or order may give another result.
        mean_step: of tracked successes.
        forwards_per_image: passes of an attacked image.
        backwards_per_image: the same backwards.
    """

    images: int
    attacked: int
    clean_accuracy: float | None
    clean_rejected: float | None
    successes: int
    success_rate: float | None
    success_interval: tuple[float, float] | None
    successes_verified: int
    success_rate_verified: float | None
    success_interval_verified: tuple[float, float] | None
    success_rate_undetected: float | None
    noise_level: float | None
    noise_level_verified: float | None
    median_l2: float | None
    median_l2_verified: float | None
    rounding_share: float | None
    unexplained: int
    blind_failures: int
    rounding_decided: int
    mean_step: float | None
    forwards_per_image: float | None
    backwards_per_image: float | None


def summarize(records: pa.Table) -> Summary:
    """Sum up the records of one attack on one classifier."""
    column = {name: records[name].to_numpy(zero_copy_only=False) for name in records.column_names}
    classified = column["label"] == column["clean_prediction"]
    right = classified & (column["label"] == column["source_prediction"])
    attacked = int(right.sum())
    tracked = column["success_tracked"] & right
    verified = column["success_verified"] & right
    l2, near = column["l2"], np.abs(column["margin"]) < ROUNDING_MARGIN
    return Summary(
        images=len(right),
        attacked=attacked,
        clean_accuracy=_ratio(int(classified.sum()), len(right)),
        clean_rejected=_ratio(int(column["clean_rejected"].sum()), len(right)),
        successes=int(tracked.sum()),
        success_rate=_ratio(int(tracked.sum()), attacked),
        success_interval=wilson(int(tracked.sum()), attacked),
        successes_verified=int(verified.sum()),
        success_rate_verified=_ratio(int(verified.sum()), attacked),
        success_interval_verified=wilson(int(verified.sum()), attacked),
        success_rate_undetected=_ratio(int((verified & ~column["rejected"]).sum()), attacked),
        noise_level=_mean(l2[tracked]),
        noise_level_verified=_mean(l2[verified]),
        median_l2=_median_with_failures(l2[right], tracked[right]),
        median_l2_verified=_median_with_failures(l2[right], verified[right]),
        rounding_share=_ratio(int((tracked & near).sum()), int(tracked.sum())),
        unexplained=int((column["unexplained"] & right).sum()),
        blind_failures=int((column["blind"] & right & ~column["success_tracked"]).sum()),
        rounding_decided=int((right & (column["closest"] < ROUNDING_MARGIN)).sum()),
        mean_step=_mean(column["step"][tracked & (column["step"] >= 0)]),
        forwards_per_image=_mean(column["forwards"][right]),
        backwards_per_image=_mean(column["backwards"][right]),
    )


def within_steps(records: pa.Table, steps: int) -> pa.Table:
    """The records that a run of fewer steps would have written, of an attack that stops at success.

    Its successes are those of the longer run up to there, image by image; what had not succeeded
    by then is a failure. (Its passes are not known and stay those of the longer run.)
    """
    step = records["step"].to_numpy(zero_copy_only=False)
    inside = (step >= 0) & (step <= steps)
    for name in ("success_tracked", "success_verified", "unexplained"):
        column = records[name].to_numpy(zero_copy_only=False) & inside
        index = records.schema.get_field_index(name)
        records = records.set_column(index, name, pa.array(column))
    return records


def iteration_curve(records: pa.Table) -> dict[str, list[Any]]:
    """Success rate against the number of iterations, at each number where it rises.

    Returns:
        `steps` and, of the attacked images, the share that had succeeded by then: `tracked` and
        `verified`.
    """
    column = {name: records[name].to_numpy(zero_copy_only=False) for name in records.column_names}
    right = (column["label"] == column["clean_prediction"]) & (
        column["label"] == column["source_prediction"]
    )
    step = column["step"][right]
    tracked, verified = column["success_tracked"][right], column["success_verified"][right]
    steps = np.unique(step[tracked])
    total = max(len(step), 1)
    return {
        "steps": steps.tolist(),
        "tracked": [float((tracked & (step <= n)).sum() / total) for n in steps],
        "verified": [float((verified & (step <= n)).sum() / total) for n in steps],
    }


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a rate; None without trials."""
    if trials == 0:
        return None
    low, high = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def percent(rate: float | None) -> str:
    """A rate in percent with two decimals; a dash where there is none."""
    return "-" if rate is None else f"{100 * rate:.2f} %"


def interval(bounds: Sequence[float] | None) -> str:
    """An interval of rates in percent with one decimal; a dash where there is none."""
    return "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def noise(level: float | None) -> str:
    """A noise level with four decimals; a dash where there is none."""
    return "-" if level is None else f"{level:.4f}"


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: "np.ndarray[Any, Any]") -> float | None:
    return float(values.mean()) if len(values) else None


def _median_with_failures(
    distances: "np.ndarray[Any, Any]", success: "np.ndarray[Any, Any]"
) -> float | None:
    if not len(distances):
        return None
    median = float(np.median(np.where(success, distances, np.inf)))
    return median if math.isfinite(median) else None
