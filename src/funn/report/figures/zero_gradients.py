"""The histogram of input-gradient zeros, of what `gradient_zeros` measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from funn.artifacts.files import read_json
from funn.artifacts.layout import GRADIENTS, RESULT
from funn.evaluation.records.metrics import percent
from funn.report.figures.style import figure
from funn.report.inputs.age import age
from funn.report.inputs.results import Result

_TENTHS = [f"{10 * tenth}-{10 * tenth + 10} %" for tenth in range(10)]
_BINS = ["none", *_TENTHS, "all"]


def gradient_histogram(
    root: Path, results: Sequence[Result], runs: Mapping[str, str]
) -> go.Figure | None:
    """Share of images against the share of zeros in their gradient, for each encoder and loss."""
    folders = {
        result.encoder: (root / result.folder).parent
        for run in runs.values()
        for result in results
        if result.run == run
    }
    traces = []
    for encoder, folder in folders.items():
        found = [(read_json(path), age(path)) for path in folder.glob(f"{GRADIENTS}-*/{RESULT}")]
        there = [(content["images"], when, content) for content, when in found if content]
        measured = max(there, key=lambda each: each[:2])[2] if there else None
        for loss in ("cross_entropy", "margin") if measured else ():
            assert measured is not None
            zero = percent(measured[loss]["all_zero"])
            name = f"{encoder}, {loss.replace('_', '-')}: all zero for {zero}"
            shares = binned(measured[loss]["counts"], measured["entries"])
            shown = "%{customdata}: %{y:.2%}"
            traces.append(go.Bar(y=shares, customdata=_BINS, name=name, hovertemplate=shown))
    if not traces:
        return None
    drawn = figure(
        "Exact zeros in the gradient at test images", "zeros among its entries", "images", traces
    )
    # A tenth ends half a bin after its middle. So few labels stand side by side on a phone.
    drawn.update_xaxes(
        tickvals=[0, 2.5, 5.5, 8.5, 11], ticktext=["none", "20 %", "50 %", "80 %", "all"]
    )
    drawn.update_yaxes(tickformat=".0%")
    return drawn


def binned(counts: Mapping[str, int], entries: int) -> list[float]:
    """The share of images with no zero, with up to each tenth of zeros, and with nothing else.

    Args:
        counts: number of images by their number of zeros.
        entries: of one gradient.
    """
    shares = [0.0] * len(_BINS)
    for zeros, images in counts.items():
        place = 0 if int(zeros) == 0 else 1 + 10 * int(zeros) // entries
        shares[place] += images / sum(counts.values())
    return shares
