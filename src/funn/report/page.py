"""The report as one HTML page that needs no network."""

import base64
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from funn.report.findings.claims import Finding
from funn.report.findings.disagreement import RULE, footnotes, symbols
from funn.report.tables.table import Table

_TEMPLATES = Environment(
    loader=PackageLoader("funn.report"),
    autoescape=True,  # whatever the file is called: no text of a result is ever taken for HTML
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals |= {"symbols": symbols, "footnotes": footnotes, "RULE": RULE}


def page(
    tables: Sequence[Table],
    findings: Sequence[Finding],
    plots: Mapping[str, go.Figure],
    drawings: Mapping[str, str],
    pictures: Mapping[str, bytes],
    choices: Sequence[str],
    legend: str,
    source: str,
) -> str:
    """Write the page, from templates/page.html.

    Args:
        tables: the first is shown with the findings, the others below the plots.
        findings: what the results say.
        plots: by the name of their place on the page.
        drawings: SVG by what they show.
        pictures: PNG files by what they show.
        choices: where the paper is silent or wrong, and what was chosen.
        legend: what the tables' columns mean.
        source: when and from what the results come.
    """
    return _TEMPLATES.get_template("page.html").render(
        tables=tables,
        findings=findings,
        # The library is 4 MB: nothing of it where there is nothing to draw.
        library=get_plotlyjs() if plots else None,
        plots=[_plot(name, figure) for name, figure in plots.items()],
        drawings=drawings,
        pictures={title: base64.b64encode(png).decode() for title, png in pictures.items()},
        choices=choices,
        legend=legend,
        source=source,
    )


def _plot(name: str, figure: go.Figure) -> str:
    shown = {"responsive": True, "displayModeBar": False}
    text: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=shown)
    return text
