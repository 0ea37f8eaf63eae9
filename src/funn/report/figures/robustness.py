"""Robust accuracy against eps."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.colors import qualitative

from funn.artifacts.layout import RADII, ROBUST
from funn.evaluation.records.radii import NORMS, read_radii
from funn.evaluation.records.robustness_curve import curve, eps_at, largest
from funn.report.figures.style import figure
from funn.report.inputs.results import studies

_DASHES = ("solid", "dash", "dot")  # of the lines when the colours have run out


def robust_curves(root: Path) -> dict[str, go.Figure]:
    """Robust accuracy against eps of every encoder, by the name of the figure's place.

    Of several seeds the tables speak; here they would hide each other.
    """
    radii = {
        encoder: read_radii(content["folder"] / RADII)
        for encoder, content in studies(root, ROBUST).items()
        if "seed" not in content["changed"]
    }
    drawn = {
        f"robust-{norm}": against_eps({name: each[norm] for name, each in radii.items()}, norm)
        for norm in NORMS
    }
    return {name: plot for name, plot in drawn.items() if plot is not None}


def against_eps(defenses: Mapping[str, ArrayLike], norm: str) -> go.Figure | None:
    """Robust accuracy of several defences against eps, over all images.

    Args:
        defenses: the smallest distance (N,) at which any attack fooled each image, by the
            defence's name; 0 for a clean error, NaN or infinite for a failure.
        norm: of the distances, as the title names it.

    Returns:
        The figure, a staircase for each defence that has images; None without any.
    """
    drawn = {name: found for name, found in defenses.items() if np.size(found)}
    if not drawn:
        return None
    # All end together, so that a curve that has come to its end is seen to stay there.
    end = max(largest(found) for found in drawn.values())
    traces = []
    looks = [(colour, dash) for dash in _DASHES for colour in qualitative.Plotly]
    for (colour, dash), (name, found) in zip(cycle(looks), drawn.items(), strict=False):
        eps, accuracy = curve(found, end)
        half = eps_at(found)
        traces.append(
            go.Scatter(
                x=eps.tolist(),
                y=accuracy.tolist(),
                name=name if half is None else f"{name} (50 % at {half:.3g})",
                hovertemplate="%{y:.2%} at %{x:.4g}",
                mode="lines",
                line={"shape": "hv", "color": colour, "dash": dash},
            )
        )
    title = f"Robust accuracy by {norm} distance"
    figured = figure(title, f"eps ({norm})", "share of all images right within eps", traces)
    figured.update_yaxes(tickformat=".0%", range=[0, 1])
    return figured
