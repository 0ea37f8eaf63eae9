"""The report as one HTML page that needs no network."""

import base64
import html
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from funn.report.findings.claims import Finding
from funn.report.findings.disagreement import RULE, footnotes, symbols

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{line-height:1.2}
.wide{overflow-x:auto;margin-bottom:.5rem}
table{border-collapse:collapse;font-size:.85rem}
th,td{padding:.3rem .6rem;border-bottom:1px solid #8886;text-align:right;white-space:nowrap}
th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}
td:first-child{white-space:normal;min-width:14rem;overflow-wrap:anywhere}
thead th{position:sticky;top:0;background:Canvas}
.interpretation{border-left:.25rem solid #8886;padding-left:.75rem;list-style:none}
small{opacity:.8}
mark a{color:inherit}
figure{margin:1rem 0}
svg{max-width:100%;height:auto}
.drawings{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
.plot .main-svg{max-width:none}
.infolayer text,.cartesianlayer text{fill:CanvasText!important}
img{max-width:100%;image-rendering:pixelated}
@media (max-width:40rem){body{margin:1rem auto;padding:0 .75rem}}
@page{size:landscape}
@media print{
:root{color-scheme:light}
body{max-width:none;margin:0;font-size:12px}
details{display:block}
figure,.plot,tr{break-inside:avoid}
.wide{overflow:visible}
table{font-size:.6rem}
th,td{white-space:normal;padding:.15rem .25rem}
td a{display:inline-block;min-width:16em;overflow-wrap:anywhere}
thead th{position:static}
}
"""


class Table(NamedTuple):
    """A table of text, with the names of its columns.

    Attributes:
        name: of its CSV and Markdown files.
        title: above it.
        header: names of the columns.
        rows: text; a cell of the column "run" is a folder under outputs/.
        marks: the cells, by row and column, that disagree with the paper, with the reason or "".
        links: the folder under outputs/ of the result that a cell, by row and column, shows.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Mapping[tuple[int, int], str] = MappingProxyType({})
    links: Mapping[tuple[int, int], str] = MappingProxyType({})


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
    """Write the page.

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
    first, *rest = tables
    # The library is 4 MB: nothing of it where there is nothing to draw.
    library = f"<script>{get_plotlyjs()}</script>" if plots else ""
    drawn = "".join(
        f'<div class="plot">{_plot(name, figure)}</div>' for name, figure in plots.items()
    )
    sketched = "".join(
        f"<figure>{svg}<figcaption>{html.escape(title)}</figcaption></figure>"
        for title, svg in drawings.items()
    )
    shown = "".join(_picture(title, content) for title, content in pictures.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>FUNN: the paper's tables and ours</title><style>{_STYLE}</style>{library}"
        "</head><body><h1>FUNN, reproduced</h1>"
        f"{_findings(findings)}{_table(first)}<p><small>{html.escape(legend)}</small></p>"
        f'<div class="drawings">{sketched}</div>{drawn}{shown}'
        f"{''.join(_table(table) for table in rest)}"
        "<h2>Where the paper is silent or wrong, and what was chosen</h2>"
        f"<ul>{''.join(f'<li>{html.escape(choice)}</li>' for choice in choices)}</ul>"
        f"<h2>Where this comes from</h2><p>{html.escape(source)}</p></body></html>\n"
    )


def _findings(findings: Sequence[Finding]) -> str:
    items = "".join(
        f'<li class="interpretation"><small>Interpretation.</small> {html.escape(text)}</li>'
        if interpretation
        else f"<li>{html.escape(text)}</li>"
        for text, interpretation in findings
    )
    return f"<ul>{items}</ul>"


def _plot(name: str, figure: go.Figure) -> str:
    shown = {"responsive": True, "displayModeBar": False}
    text: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=shown)
    return text


def _picture(title: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return (
        f'<figure class="plot"><img src="data:image/png;base64,{data}" alt="{html.escape(title)}">'
        f"<figcaption><small>{html.escape(title)}</small></figcaption></figure>"
    )


def _table(table: Table) -> str:
    signs = symbols(table.marks)

    def cell(row: int, column: int, text: str) -> str:
        shown = html.escape(text)
        folder = text if table.header[column] == "run" else table.links.get((row, column))
        if folder:  # the page lies in outputs/report
            shown = f'<a href="../{html.escape(folder)}/result.json">{shown}</a>'
        if (row, column) in signs:
            reason = html.escape(table.marks[row, column] or RULE)
            shown = f'<mark title="{reason}">{shown} <sup>{signs[row, column]}</sup></mark>'
        return shown

    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{cell(at, column, text)}</td>" for column, text in enumerate(row))
        + "</tr>"
        for at, row in enumerate(table.rows)
    )
    notes = "".join(f"<br>{html.escape(line)}" for line in footnotes(table.marks))
    return (
        f'<h2>{html.escape(table.title)}</h2><div class="wide"><table><thead><tr>{head}</tr>'
        f'</thead><tbody>{rows}</tbody></table></div><p><small><a href="{table.name}.csv">CSV</a>, '
        f'<a href="{table.name}.md">Markdown</a>{notes}</small></p>'
    )
