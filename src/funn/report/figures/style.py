"""How all plots look."""

from collections.abc import Sequence

import plotly.graph_objects as go

LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "title_font_size": 15,
    "font": {"color": "#80868f"},  # legible on white and on black
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    "legend": {"orientation": "h", "y": -0.25},
}
_HEIGHT, _LINE, _LEGEND = 420, 12, 6  # pixels; of an entry of the legend; entries that take no room
GRID = {"gridcolor": "rgba(128,128,128,.3)", "zerolinecolor": "rgba(128,128,128,.5)"}


def figure(title: str, x: str, y: str, traces: Sequence[go.Scatter]) -> go.Figure:
    """Lines with titles at the axes."""
    drawn = go.Figure(list(traces))
    named = sum(trace.showlegend is not False for trace in traces)
    height = _HEIGHT + _LINE * max(named - _LEGEND, 0)
    drawn.update_layout(title=title, height=height, **LAYOUT)
    drawn.update_xaxes(title=x, **GRID)
    drawn.update_yaxes(title=y, **GRID)
    return drawn
