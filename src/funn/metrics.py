"""From per-image records to the figures of a table (definitions: docstring of `summarize`)."""

import math
from typing import Any

import numpy as np
import pyarrow as pa

# A success whose |margin| is below this is rounding rather than attack.
ROUNDING_MARGIN = 1e-4
_Z95 = 1.959963984540054


def summarize(records: pa.Table) -> dict[str, Any]:
    """Return the figures of one attack on one classifier, as plain values.

    Denominators are the images that the classifier gets right: clean errors are reported by
    `clean_accuracy`, not attacked. `success_rate` is of tracked successes (the attack saw a wrong
    prediction), `success_rate_verified` of verified ones (see `records`). Each rate has a Wilson
    95 % interval. `noise_level` (Eq. 9) is the mean L2 norm over successes, an L2 norm and not an
    mse; `median_l2` counts failures as infinite, and is None when it is. `rounding_share` is the
    share of tracked successes whose |margin| is below 1e-4.
    """
    column = {name: records[name].to_numpy(zero_copy_only=False) for name in records.column_names}
    right = column["label"] == column["clean_prediction"]
    attacked = int(right.sum())
    tracked = column["success_tracked"] & right
    verified = column["success_verified"] & right
    l2, near = column["l2"], np.abs(column["margin"]) < ROUNDING_MARGIN
    return {
        "images": len(right),
        "attacked": attacked,
        "clean_accuracy": _ratio(attacked, len(right)),
        "successes": int(tracked.sum()),
        "success_rate": _ratio(int(tracked.sum()), attacked),
        "success_interval": wilson(int(tracked.sum()), attacked),
        "successes_verified": int(verified.sum()),
        "success_rate_verified": _ratio(int(verified.sum()), attacked),
        "success_interval_verified": wilson(int(verified.sum()), attacked),
        "noise_level": _mean(l2[tracked]),
        "noise_level_verified": _mean(l2[verified]),
        "median_l2": _median_with_failures(l2[right], tracked[right]),
        "median_l2_verified": _median_with_failures(l2[right], verified[right]),
        "rounding_share": _ratio(int((tracked & near).sum()), int(tracked.sum())),
        "mean_step": _mean(column["step"][tracked & (column["step"] >= 0)]),
        "forwards_per_image": _mean(column["forwards"][right]),
        "backwards_per_image": _mean(column["backwards"][right]),
    }


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a rate; None without trials."""
    if trials == 0:
        return None
    rate, z = successes / trials, _Z95
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials**2))
    half = z * spread / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


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
