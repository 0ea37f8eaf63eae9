"""Every plot of the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from funn.report.figures.curves import against_iterations, paths
from funn.report.figures.robustness import robust_curves
from funn.report.figures.sweeps import sweep_plots
from funn.report.figures.zero_gradients import gradient_histogram
from funn.report.inputs.paper import TABLE_1
from funn.report.inputs.results import Result
from funn.report.inputs.stages import latest_stages, reported_stages


def plots_of(
    root: Path, results: Sequence[Result], runs: Mapping[str, str]
) -> dict[str, go.Figure]:
    """The page's plots by the names of their places, those left out that have nothing to show."""
    games = reported_stages(root, results, runs, "adversarial")
    papers = {name: run for name, run in runs.items() if name in TABLE_1[0].cells}
    plots = {
        "iterations-l2": against_iterations(results, runs, "deepfool_l2"),
        "iterations-linf": against_iterations(results, runs, "deepfool_linf"),
        "gradients": gradient_histogram(root, results, papers or runs),
        "figure2": paths(games or latest_stages(root, "adversarial")),
        **robust_curves(root),
        **sweep_plots(root, results),
    }
    return {name: plot for name, plot in plots.items() if plot is not None}
