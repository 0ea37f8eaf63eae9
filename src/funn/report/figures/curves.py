"""Success against iterations, and Figure 2: the game, epoch by epoch."""

import csv
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import plotly.graph_objects as go
from plotly.colors import qualitative

from funn.artifacts.files import read_json
from funn.artifacts.layout import METRICS, RESULT
from funn.report.figures.style import figure
from funn.report.inputs.paper import ITERATIONS, TABLE_1, Row
from funn.report.inputs.results import Result, each_protocol

_ITERATIONS = 1000  # the most that the paper speaks of


def against_iterations(
    results: Sequence[Result], runs: Mapping[str, str], attack: str
) -> go.Figure | None:
    """Success of one DeepFool against its iterations, for each encoder and protocol.

    An encoder has one colour, and one entry in the legend, which hides and shows all its lines; a
    protocol has one dash, and the paper's figures are crosses.
    """
    row = Row("", attack, _ITERATIONS, {})
    traces: list[go.Scatter] = []
    for colour, run in zip(cycle(qualitative.Plotly), runs.values(), strict=False):
        for result in each_protocol(results, run, row):
            curve = result.curve
            if curve and curve["steps"]:
                named = any(trace.legendgroup == result.encoder for trace in traces)
                traces.append(_iterations(result, curve, colour, showlegend=not named))
    if not traces:
        return None
    traces += _papers_iterations(attack)
    title = f"Success of {attack} by iterations (dotted: foolbox1)"
    drawn = figure(title, "iterations", "share of images fooled", traces)
    drawn.update_xaxes(type="log", dtick=1)
    drawn.update_yaxes(tickformat=".0%", rangemode="tozero")
    return drawn


def _iterations(
    result: Result, curve: Mapping[str, list[float]], colour: str, showlegend: bool
) -> go.Scatter:
    def ends(shares: list[float]) -> list[float]:
        return [0.0, *shares, shares[-1]]

    # From nothing at 0 steps to the last of them; a logarithm has no 0.
    steps = [max(step, 0.5) for step in [0, *curve["steps"], result.settings["steps"]]]
    dash = "dot" if result.protocol == "foolbox1" else "solid"
    return go.Scatter(
        x=steps,
        y=ends(curve["tracked"]),
        customdata=ends(curve["verified"]),
        hovertemplate="%{y:.2%} (verified %{customdata:.2%}) after %{x}, " + result.protocol,
        name=result.encoder,
        legendgroup=result.encoder,
        showlegend=showlegend,
        mode="lines",
        line={"shape": "hv", "dash": dash, "color": colour},
    )


def _papers_iterations(attack: str) -> list[go.Scatter]:
    rows = [row for row in (*TABLE_1, *ITERATIONS) if row.attack == attack]
    return [
        go.Scatter(
            x=[row.steps for row in rows if defense in row.cells],
            y=[row.cells[defense].success_rate for row in rows if defense in row.cells],
            name=f"paper: {defense}",
            mode="markers",
            marker={"symbol": symbol, "size": 10, "color": "#80868f"},
        )
        for defense, symbol in (("classic", "cross"), ("funn", "x"))
    ]


def paths(stages: Mapping[str, Path]) -> go.Figure | None:
    """Figure 2: the path of (mse(A(x), x), mse(x, D(A(x)))) over the epochs of the game.

    Args:
        stages: folders of games by the encoder's name.
    """
    traces = []
    borders: dict[bool, set[float]] = {False: set(), True: set()}  # of the error, the perturbation
    for name, stage in stages.items():
        result, metrics = read_json(stage / RESULT), stage / METRICS
        if result is None or not metrics.exists():
            continue
        with metrics.open() as stream:
            rows = [row for row in csv.DictReader(stream) if row.get("epoch/error")]
        if not rows:
            continue
        # The second representation bounds the perturbation instead (Eq. 7).
        target = str(result["config"].get("objective", {}).get("attacker", {}).get("_target_"))
        borders[target.endswith(".minimax")].add(result["config"]["beta"])
        traces.append(
            go.Scatter(
                x=[float(row["epoch/perturbation"]) for row in rows],
                y=[float(row["epoch/error"]) for row in rows],
                text=[f"epoch {int(float(row['epoch']))}" for row in rows],
                name=name,
                mode="lines+markers",
            )
        )
    if not traces:
        return None
    drawn = figure("Figure 2: the game, epoch by epoch", "mse(A(x), x)", "mse(x, D(A(x)))", traces)
    for beta in sorted(borders[False]):
        drawn.add_hline(y=beta, line_dash="dot", annotation_text=f"border, beta={beta:g}")
    for beta in sorted(borders[True]):
        drawn.add_vline(x=beta, line_dash="dot", annotation_text=f"of Eq. 7, beta={beta:g}")
    return drawn
