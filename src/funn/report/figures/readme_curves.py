"""The README's picture: robust accuracy against eps of a few defences, as an SVG without plotly.

Its points are kept as CSV beside it, so that it can be drawn again without the records.
"""

import csv
import html
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

Curves = dict[str, list[tuple[float, float]]]

# What the report calls it; the head is that of funn_pgd's second row, without its margin.
SUPERVISED = (
    "adversarial_training (model=wide, classifier.epochs=15, head.hidden=[512], "
    "defense.stages.classifier.eps=2.0)"
)
# What the report calls an encoder, what a reader calls it, and its colour; the least robust first.
DEFENSES = {
    "funn": ("FUNN (the paper)", "#d95f02"),
    "classic": ("plain auto-encoder", "#7f7f7f"),
    "funn_pgd": ("funn_pgd, the paper's head", "#7fb3d5"),
    "funn_pgd (head=margin)": ("funn_pgd, margin head", "#1f77b4"),
    SUPERVISED: ("supervised adversarial training", "#222222"),
}
# L2, in units of an image in [0, 1]; every curve is within 1 % of 0 by the end.
_STEP, _END = 0.05, 4.0
_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 50


def sample(plot: go.Figure) -> Curves:
    """Read the README's curves off the report's staircases, at multiples of 0.05.

    Args:
        plot: the report's robust accuracy against eps; a trace's name may end in a remark in
            brackets on where it passes 50 %.

    Returns:
        (eps, robust accuracy in [0, 1]) of each of `DEFENSES` that the plot has.
    """
    traces = {str(trace.name).split(" (50 %")[0]: trace for trace in plot.data}
    grid = [round(number * _STEP, 2) for number in range(round(_END / _STEP) + 1)]
    found: Curves = {}
    for name in DEFENSES:
        if name in traces:
            eps, accuracy = (
                np.asarray(values, float) for values in (traces[name].x, traces[name].y)
            )
            # Of several values at one eps the last one counts: the staircase has gone down there.
            steps = np.clip(np.searchsorted(eps, grid, side="right") - 1, 0, len(eps) - 1)
            found[name] = [
                (at, float(accuracy[step])) for at, step in zip(grid, steps, strict=True)
            ]
    return found


def write_csv(curves: Curves) -> str:
    """One row an eps, one column a defence by the report's name; empty where it has no point."""
    at = {name: dict(points) for name, points in curves.items()}
    rows: list[Sequence[str]] = [("eps", *curves)]
    for eps in sorted({eps for points in at.values() for eps in points}):
        cells = (points.get(eps) for points in at.values())
        rows.append((f"{eps:g}", *("" if cell is None else f"{cell:.4g}" for cell in cells)))
    return "\n".join(",".join(_quoted(cell) for cell in row) for row in rows) + "\n"


def read_csv(text: str) -> Curves:
    """What `write_csv` wrote."""
    header, *rows = csv.reader(text.splitlines())
    return {
        name: [(float(row[0]), float(row[column])) for row in rows if row[column]]
        for column, name in enumerate(header[1:], start=1)
    }


def draw(curves: Mapping[str, Iterable[tuple[float, float]]]) -> str:
    """Draw the curves of `DEFENSES` as an SVG on white, which is legible on a dark page too."""
    parts = [_grid()]
    drawn = [name for name in DEFENSES if name in curves]
    for name in drawn:
        for piece in _pieces(curves[name]):
            points = " ".join(f"{_x(eps):.1f},{_y(accuracy):.1f}" for eps, accuracy in piece)
            parts.append(_line(points, DEFENSES[name][1]))
    parts.append(f'<rect x="{_x(2.3):.0f}" y="{_TOP + 8}" width="270" height="130" fill="white"/>')
    for row, name in enumerate(reversed(drawn)):
        label, colour = DEFENSES[name]
        top = _TOP + 24 + 24 * row
        parts.append(_line(f"{_x(2.35):.0f},{top} {_x(2.5):.0f},{top}", colour))
        parts.append(_text(_x(2.57), top + 5, label, "start", colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" font-family="sans-serif" font-size="14">\n'
        "<title>Robust accuracy against eps (L2)</title>\n"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _pieces(points: Iterable[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """A curve cut where points are missing: no line is drawn through what was not measured."""
    pieces: list[list[tuple[float, float]]] = []
    for point in points:
        if not pieces or point[0] - pieces[-1][-1][0] > 1.5 * _STEP:
            pieces.append([])
        pieces[-1].append(point)
    return pieces


def _grid() -> str:
    parts = []
    for percent in range(0, 101, 25):
        y = _y(percent / 100)
        parts.append(f'<path stroke="#ddd" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 8, y + 5, f"{percent} %", "end"))
    for eps in range(int(_END) + 1):
        parts.append(f'<path stroke="#ddd" d="M{_x(eps):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(_text(_x(eps), _HEIGHT - _BOTTOM + 20, str(eps), "middle"))
    parts.append(_text(_x(_END / 2), _HEIGHT - 8, "perturbation budget eps (L2 norm)", "middle"))
    parts.append(_text(_LEFT + 8, _HEIGHT - _BOTTOM - 8, "robust accuracy", "start"))
    return "\n".join(parts)


def _line(points: str, colour: str) -> str:
    return f'<polyline fill="none" stroke="{colour}" stroke-width="2.5" points="{points}"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#555") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(text)}</text>"
    )


def _x(eps: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * eps / _END


def _y(accuracy: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * accuracy


def _quoted(cell: str) -> str:
    return f'"{cell}"' if "," in cell else cell
