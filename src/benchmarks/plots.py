"""`make bench`, last part: what the others measured, as plots in outputs/bench."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from funn.artifacts.files import read_json, replace_file
from funn.config.compose import ROOT
from funn.report.figures.style import GRID, LAYOUT, figure

_AXES = {"images": "images", "width": "times the paper's channels", "classes": "classes"}
_MEASURES = {"seconds": "seconds", "mebibytes": "peak memory, MiB more"}
_HEIGHT = 900


def main() -> None:
    """Draw outputs/bench/speed.html and cost.html, each as a plot for `make reference` too."""
    folder = ROOT / "outputs" / "bench"
    for name, drawn in (("speed", speed(folder)), ("cost", cost(folder))):
        if drawn is None:
            continue
        (folder / "plots").mkdir(exist_ok=True)
        replace_file(folder / "plots" / f"{name}.json", drawn.to_json().encode())
        path = folder / f"{name}.html"
        replace_file(path, drawn.to_html(include_plotlyjs=True).encode())
        print(path)


def speed(folder: Path) -> go.Figure | None:
    """How many times faster ours is than each other code, on a logarithmic axis."""
    bars = list(_ratios(folder))
    if not bars:
        return None
    names, ratios = zip(*reversed(bars), strict=True)
    drawn = figure("Ours against other code, in the same run", "times faster", "", [])
    text = [f"{ratio:.2f}" for ratio in ratios]
    drawn.add_bar(x=ratios, y=names, orientation="h", text=text, cliponaxis=False)
    drawn.add_vline(x=1, line_dash="dot", line_color="#80868f")
    drawn.update_xaxes(type="log")
    drawn.update_layout(height=120 + 22 * len(bars), margin_l=260, showlegend=False)
    return drawn


def cost(folder: Path) -> go.Figure | None:
    """Time and memory of training and of each attack against the size of the task."""
    rows = (read_json(folder / "size.json") or {}).get("rows")
    if rows is None:
        return None
    drawn = make_subplots(rows=len(_MEASURES), cols=len(_AXES), vertical_spacing=0.08)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for place, task in enumerate(tasks):
        for column, against in enumerate(_AXES, 1):
            found = [row for row in rows if (row["task"], row["against"]) == (task, against)]
            found.sort(key=lambda row: row["size"])
            for line, measure in enumerate(_MEASURES, 1):
                drawn.add_scatter(
                    x=[row["size"] for row in found],
                    y=[row[measure] for row in found],
                    name=task,
                    legendgroup=task,
                    showlegend=line == column == 1,
                    mode="lines+markers",
                    line={
                        "color": qualitative.Dark24[place % 24],
                        "dash": "dot" if task.startswith("training") else "solid",
                    },
                    row=line,
                    col=column,
                )
    drawn.update_layout(title="Cost against size", height=_HEIGHT, **LAYOUT)
    drawn.update_layout(legend_y=-0.1)
    drawn.update_xaxes(type="log", dtick="D2", **GRID)
    drawn.update_yaxes(type="log", dtick=1, **GRID)
    for column, title in enumerate(_AXES.values(), 1):
        drawn.update_xaxes(title_text=title, row=len(_MEASURES), col=column)
    for line, title in enumerate(_MEASURES.values(), 1):
        drawn.update_yaxes(title_text=title, row=line, col=1)
    return drawn


def _ratios(folder: Path) -> Iterator[tuple[str, float]]:
    """Each comparison, and how many times faster ours is."""
    bench: dict[str, Any] = read_json(folder / "bench.json") or {}
    for name, row in bench.get("training", {}).items():
        yield f"training {name}: by hand", row["speedup"]
    if "sweep" in bench:
        yield "sweep of betas: one by one, by hand", bench["sweep"]["speedup"]
    attacks = (read_json(folder / "attacks.json") or {}).get("attacks", {})
    for name, rows in attacks.items():
        for row in rows:
            if not row["library"].startswith("funn"):
                yield f"{name}: {row['library']}", row["ratio"]
    strong = read_json(folder / "strong.json")
    if strong is not None:
        ratio = strong["seconds"]["authors"] / strong["seconds"]["ours"]
        yield "AutoAttack: its authors' code", ratio


if __name__ == "__main__":
    main()
