"""The report's curves, as plotly figures of plain data."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from funn.files import read_json
from funn.results import Result

_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": "#80868f"},  # legible on white and on black
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    "legend": {"orientation": "h", "y": -0.25},
    "height": 420,
}
_GRID = {"gridcolor": "rgba(128,128,128,.3)", "zerolinecolor": "rgba(128,128,128,.5)"}


def figure(title: str, x: str, y: str, traces: Sequence[go.Scatter]) -> go.Figure:
    """Lines with titles at the axes."""
    drawn = go.Figure(list(traces))
    drawn.update_layout(title=title, **_LAYOUT)
    drawn.update_xaxes(title=x, **_GRID)
    drawn.update_yaxes(title=y, **_GRID)
    return drawn


def against_iterations(results: Sequence[Result], runs: Mapping[str, str]) -> go.Figure | None:
    """Success of DeepFool against its iterations, for each encoder, norm and protocol."""
    traces = []
    for result in results:
        if result["run"] not in runs.values() or result["source"] is not None:
            continue
        curve = result.get("curve")
        if not curve or not curve["steps"] or result["settings"]["steps"] < 1000:
            continue
        name = f"{result['encoder']}, {result['attack']}, {result['protocol']}"
        # From nothing at 0 steps to the last of them; a logarithm has no 0.
        steps = [max(step, 0.5) for step in [0, *curve["steps"], result["settings"]["steps"]]]
        shares = [0.0, *curve["tracked"], curve["tracked"][-1]]
        traces.append(go.Scatter(x=steps, y=shares, name=name, mode="lines", line={"shape": "hv"}))
    if not traces:
        return None
    drawn = figure(
        "Success of DeepFool against iterations", "iterations", "share of images fooled", traces
    )
    drawn.update_xaxes(type="log")
    return drawn


def paths(root: Path) -> go.Figure | None:
    """Figure 2: the way of (mse(A(x), x), mse(x, D(A(x)))) over the epochs of the game."""
    traces, betas = [], set()
    for run in sorted((root / "latest").glob("*")):
        stage = run / "adversarial"
        result, metrics = read_json(stage / "result.json"), stage / "metrics.csv"
        if result is None or not metrics.exists():
            continue
        with metrics.open() as stream:
            rows = [row for row in csv.DictReader(stream) if row.get("epoch/error")]
        if not rows:
            continue
        betas.add(result["config"]["beta"])
        traces.append(
            go.Scatter(
                x=[float(row["epoch/perturbation"]) for row in rows],
                y=[float(row["epoch/error"]) for row in rows],
                text=[f"epoch {int(float(row['epoch']))}" for row in rows],
                name=run.name,
                mode="lines+markers",
            )
        )
    if not traces:
        return None
    drawn = figure("Figure 2: the game, epoch by epoch", "mse(A(x), x)", "mse(x, D(A(x)))", traces)
    for beta in sorted(betas):
        drawn.add_hline(y=beta, line_dash="dot", annotation_text=f"border, beta={beta:g}")
    return drawn
