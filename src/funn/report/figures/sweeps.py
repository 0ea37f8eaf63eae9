"""What beta, gamma and the learning rate of the game change: curves and pictures of sweeps of funn.

A sweep is found, not declared: runs whose settings differ in one key and in nothing else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import plotly.graph_objects as go

from funn.artifacts.files import read_json
from funn.artifacts.layout import IMAGES, stage_results
from funn.evaluation.records.metrics import percent
from funn.report.figures.style import figure
from funn.report.inputs.age import age
from funn.report.inputs.paper import STRONGER, TABLE_1
from funn.report.inputs.results import Result, each_protocol

Item = TypeVar("Item")

# Fewer values than this are a comparison, not a curve.
_LEAST = 3
# The mse between MNIST's images and their mean: past it, says section 4.3, the attacker has
# nothing to send but a black image.
_COLLAPSE = 0.067
_ATTACKS = ("deepfool_l2", "deepfool_linf", "pgd_l2", "pgd_linf")
_ROWS = [row for row in (*TABLE_1, *STRONGER) if row.attack in _ATTACKS]
_GAME = {
    "perturbation": "mse(A(x), x)",
    "error": "mse(x, D(A(x)))",
    "defender_clean": "mse(x, D(x))",
}


class Axis(NamedTuple):
    """What a sweep changes.

    Attributes:
        name: of its plots' places on the page.
        title: in words.
        key: of the configuration, dotted.
        tied: a key that may follow it, as in conf/experiment/lr_sweep.yaml.
        border: a value to mark.
    """

    name: str
    title: str
    key: str
    tied: str | None = None
    border: float | None = None


AXES = (
    Axis("beta", "beta", "beta", border=_COLLAPSE),
    Axis("gamma", "gamma", "gamma"),
    Axis(
        "rate",
        "the learning rate of the game",
        "adversarial.defender_lr",
        tied="adversarial.attacker_lr",
    ),
)


def sweep_plots(root: Path, results: Sequence[Result]) -> dict[str, go.Figure]:
    """The curves of every sweep there is.

    Args:
        root: the outputs; where the game ends is read from the stages, which need no evaluation.
        results: of the attacks, for success and noise.

    Returns:
        Figures by the name of their place; nothing of what was not swept over 3 values.
    """
    plots = {}
    for axis in AXES:
        metrics = {x: stage["metrics"] for x, (_, stage) in _games(root, axis).items()}
        ends = [_line(name, {x: m[key] for x, m in metrics.items()}) for key, name in _GAME.items()]
        if metrics:
            title = f"Where the game ends against {axis.title}"
            plots[axis.name] = _against(axis, title, "mse after the last epoch", ends)
            plots[axis.name].update_yaxes(type="log")
        success, levels = _attacked(root, results, axis)
        if success:
            y = "share of images fooled, verified"
            plots[f"{axis.name}-success"] = _against(
                axis, f"Success against {axis.title}", y, success
            )
        if levels:
            y = "noise level, verified"
            plots[f"{axis.name}-noise"] = _against(axis, f"Noise against {axis.title}", y, levels)
    return plots


def sweep_pictures(root: Path) -> dict[str, bytes]:
    """The last picture of the game at each value of a sweep, as PNG files by what they show."""
    found = {}
    for axis in AXES:
        for x, (folder, _) in sorted(_games(root, axis).items()):
            for path in sorted((folder / IMAGES).glob("*.png"))[-1:]:
                shows = "clean x, attacked A(x), restored D(A(x)), D(x)"
                found[f"{axis.key}={x:g}, {path.stem}: {shows}"] = path.read_bytes()
    return found


def sweep(trained: Iterable[tuple[Mapping[str, Any], Item]], axis: Axis) -> dict[float, Item]:
    """Find the largest set of trainings that differ in one key alone; on MNIST if there is one.

    Args:
        trained: settings, nested, and what was trained with them, the oldest first.
        axis: the key.

    Returns:
        The newest item for each value of the key; empty if there are fewer than 3 values.
    """
    groups: dict[tuple[bool, str], dict[float, Item]] = {}
    for settings, item in trained:
        rest = _leaves(settings)
        if axis.key not in rest:
            continue
        x = rest.pop(axis.key)
        alike = [rest]
        if axis.tied is not None and rest.get(axis.tied) == x:
            alike.append({**rest, axis.tied: "tied"})  # it may be a point of either sweep
        for others in alike:
            mnist = str(others.get("data._target_")).endswith(".MNIST")
            groups.setdefault((mnist, str(sorted(others.items()))), {})[x] = item
    whole = {group: items for group, items in groups.items() if len(items) >= _LEAST}
    best = max(whole, key=lambda group: (group[0], len(whole[group])), default=None)
    return {} if best is None else whole[best]


def _stages(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and the result of every finished game of funn, the oldest first."""
    paths = sorted(stage_results(root, "adversarial"), key=age)
    found = [(path.parent, content) for path in paths if (content := read_json(path)) is not None]
    return [(folder, stage) for folder, stage in found if stage["defense"] == "funn"]


def _games(root: Path, axis: Axis) -> dict[float, tuple[Path, dict[str, Any]]]:
    """The folder and the result of the game's stage at each value of a sweep."""
    return sweep(((stage["settings"], (folder, stage)) for folder, stage in _stages(root)), axis)


def _evaluated(root: Path, results: Sequence[Result]) -> list[tuple[dict[str, Any], str]]:
    """Settings and name of each run that was attacked, the oldest first.

    Games of other settings may end with the same bits, and then share a classifier and what was
    measured of it: where the attacker never forces an error of beta, no larger beta changes a step.
    """
    games = [stage for _, stage in _stages(root)]
    trained = []
    for result in results:
        own = result.settings_trained
        if result.defense != "funn" or own is None:
            continue
        parents = {parent["sha256"] for parent in result.parents}
        twins = [game["settings"] for game in games if game["checkpoint_sha256"] in parents]
        trained += [({**own, **settings}, result.run) for settings in (*twins, own)]
    return trained


def _attacked(
    root: Path, results: Sequence[Result], axis: Axis
) -> tuple[list[go.Scatter], list[go.Scatter]]:
    """Lines of success and of noise, one for each attack and protocol."""
    runs = sweep(_evaluated(root, results), axis)
    cells: dict[str, dict[float, Result]] = {}
    for row in _ROWS:
        for x, run in runs.items():
            for result in each_protocol(results, run, row):
                protocol = "" if result.protocol == "both" else f", {result.protocol}"
                cells.setdefault(f"{row.title}{protocol}", {})[x] = result
    success: list[go.Scatter] = []
    levels: list[go.Scatter] = []
    for name, points in cells.items():
        said = {
            x: f"{percent(result.success_rate)} tracked, {result.images} images"
            for x, result in points.items()
        }
        for lines, key in (
            (success, "success_rate_verified"),
            (levels, "noise_level_verified"),
        ):
            values = {
                x: value
                for x, result in points.items()
                if (value := getattr(result, key)) is not None
            }
            if len(values) > 1:
                lines.append(_line(name, values, said))
    return success, levels


def _line(
    name: str, points: Mapping[float, float], said: Mapping[float, str] | None = None
) -> go.Scatter:
    xs = sorted(points)
    return go.Scatter(
        x=xs,
        y=[points[x] for x in xs],
        text=None if said is None else [said[x] for x in xs],
        name=name,
        mode="lines+markers",
    )


def _against(axis: Axis, title: str, y: str, lines: Sequence[go.Scatter]) -> go.Figure:
    drawn = figure(title, axis.title, y, lines)
    positive = all(x > 0 for line in lines for x in line.x)
    if positive:  # gamma may be 0, which a logarithm would leave out
        drawn.update_xaxes(type="log")
    if axis.border is not None:
        drawn.add_vline(x=axis.border, line_dash="dot")
        drawn.add_annotation(
            x=math.log10(axis.border) if positive else axis.border,
            y=1,
            yref="paper",
            text="the paper: a black image past here",
            showarrow=False,
            xanchor="right",
        )
    return drawn


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        flat |= {f"{prefix}{name}": value} if inner is None else inner
    return flat
