"""Figures 1 and 3 of the paper as SVG, drawn from a trained run: what is drawn is what was run."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from funn.artifacts.layout import CHECKPOINT
from funn.config.build import locate
from funn.method.networks import AutoEncoder, Classifier, HalfTanh
from funn.method.objectives import FORMULAS
from funn.report.inputs.results import Result
from funn.report.inputs.stages import stage_folder
from funn.training.checkpoint import load

# Of every drawing, in SVG units; one unit is at most one pixel on the page.
_WIDTH = 480
_ROW = 46
_BAR = 130  # widest box of a layer


class Layer(NamedTuple):
    """A layer as it is drawn.

    Attributes:
        name: what it does.
        shape: of its output for one image, without the batch.
        parameters: how many numbers it learns.
        activation: at its end; empty for none.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int = 0
    activation: str = ""


def drawings(root: Path, result: Result) -> dict[str, str]:
    """Draw the concept (Figure 1) and the networks (Figure 3) of the run behind a result.

    Returns:
        SVG by title; empty where the run played no game, or its checkpoints are not there.
    """
    game, final = (stage_folder(root, result, name) for name in ("adversarial", "classifier"))
    if game is None or final is None:
        return {}
    saved = load(game / CHECKPOINT, changed_code=True)
    attacker, defender = saved["attacker"].module, saved["defender"].module
    classifier = load(final / CHECKPOINT, changed_code=True)["classifier"].module
    assert isinstance(attacker, AutoEncoder)
    assert isinstance(defender, AutoEncoder)
    assert isinstance(classifier, Classifier)
    shape = tuple(saved["defender"].spec["image_shape"])
    return {
        "Figure 1: the concept": concept(result.trained, attacker.noise, shape),
        "Figure 3a: the attacker A": network("image x", shape, *_autoencoder(attacker, shape)),
        "Figure 3b: the defender D": network("image A(x)", shape, *_autoencoder(defender, shape)),
        "Figure 3c: the classifier on the defender's encoder": network(
            "image", shape, layers(classifier, torch.zeros(1, *shape))
        ),
    }


def layers(model: nn.Module, x: Tensor, before: Sequence[Layer] = ()) -> list[Layer]:
    """Run a network once, and list its layers in the order in which they run.

    An activation, which learns nothing and keeps the size, belongs to the layer before it.
    Flattening is not drawn, unflattening gives the layer before it its shape back.

    Args:
        model: any network of torch's own layers.
        x: one input, with its batch of 1.
        before: what came before it, which is returned first.
    """
    found = list(before)

    def saw(module: nn.Module, inputs: Any, output: Tensor) -> None:
        del inputs
        shape = tuple(output.shape[1:])
        parameters = sum(value.numel() for value in module.parameters())
        if isinstance(module, nn.Flatten | nn.Unflatten):
            if found and isinstance(module, nn.Unflatten):
                found[-1] = found[-1]._replace(shape=shape)
        elif parameters or not found or math.prod(shape) != math.prod(found[-1].shape):
            found.append(Layer(_title(module), shape, parameters))
        else:
            names = filter(None, (found[-1].activation, _title(module)))
            found[-1] = found[-1]._replace(activation=", ".join(names))

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(saw) for leaf in leaves]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def formula(objective: Mapping[str, Any], **values: float) -> str:
    """What an attacker minimises, with numbers put in; the name of an objective without a formula.

    Args:
        objective: spec of the function; `funn.method.objectives.FORMULAS` says what it computes.
        values: of the names in the formula.
    """
    target = str(objective["_target_"])
    text = FORMULAS.get(locate(objective), target)
    for name, value in values.items() if text != target else ():
        text = re.sub(rf"\b{name}\b", f"{value:g}", text)
    return text


def concept(config: Mapping[str, Any], noise: int, shape: Sequence[int]) -> str:
    """Draw Figure 1: an image on its way through both players, and what each minimises.

    Args:
        config: the resolved configuration of a training.
        noise: length of the attacker's uniform vector.
        shape: (C, H, W) of the images.
    """
    attacker = formula(config["objective"]["attacker"], beta=config["beta"], gamma=config["gamma"])
    places = {"x": 40, "A": 130, "A(x)": 232, "D": 334, "D(A(x))": 440}
    parts = [_text(x, 68, name, bold=True) for name, x in places.items()]
    parts += [_box(x - 34, 36, 68, 56) for name, x in places.items() if name in "AD"]
    parts += [_text(130, 84, "attacker", small=True), _text(334, 84, "defender", small=True)]
    parts += [_arrow(*ends) for ends in ((54, 92), (168, 208), (256, 296), (372, 408))]
    parts += [_text(40, 86, _size(shape), small=True)]
    if noise:
        parts += [
            _text(130, 22, f"uniform vector, {noise} numbers", small=True),
            '<path d="M130 26v8"/>',
        ]
    parts += _bracket(40, 232, 112, "perturbation = mse(A(x), x)")
    parts += _bracket(40, 440, 154, "error = mse(x, D(A(x)))")
    parts += [
        _text(12, 212, f"A minimises {attacker}", anchor="start"),
        _text(12, 236, "D minimises error", anchor="start"),
    ]
    return _svg(248, parts, "x goes through the attacker A and the defender D")


def network(given: str, shape: Sequence[int], *parts: Sequence[Layer]) -> str:
    """Draw a network from top to bottom, a box a layer; its width goes with the output's size.

    Args:
        given: name of the input.
        shape: of the input, without the batch.
        parts: the layers of each part; a line parts them.
    """
    rows = [Layer(given, tuple(shape)), *(layer for part in parts for layer in part)]
    largest = max(math.prod(row.shape) for row in rows)
    drawn = []
    for number, row in enumerate(rows):
        top = 4 + number * _ROW
        width = max(_BAR * math.sqrt(math.prod(row.shape) / largest), 4)
        learnt = f"{row.parameters:,} parameters" if row.parameters else ""
        facts = ", ".join(filter(None, (_size(row.shape), row.activation, learnt)))
        drawn += [
            _box(_BAR / 2 + 4 - width / 2, top, width, _ROW - 14),
            _text(_BAR + 20, top + 14, row.name, anchor="start"),
            _text(_BAR + 20, top + 30, facts, anchor="start", small=True),
        ]
    ends, end = [], 1
    for part in parts[:-1]:
        end += len(part)
        ends.append(end)
    drawn += [
        f'<path stroke-dasharray="4 4" opacity=".5" d="M0 {_ROW * end - 3}H{_WIDTH}"/>'
        for end in ends
    ]
    return _svg(len(rows) * _ROW, drawn, "; ".join(row.name for row in rows))


def _autoencoder(player: AutoEncoder, shape: Sequence[int]) -> list[list[Layer]]:
    """The layers of the encoder, and those of the generator after what is concatenated."""
    encoder = layers(player.encoder, torch.zeros(1, *shape))
    length = player.features + player.noise
    joined = [Layer(f"and {player.noise} uniform numbers", (length,))] if player.noise else []
    return [encoder, layers(player.generator, torch.zeros(1, length), joined)]


def _title(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        kind = "transposed convolution" if isinstance(module, nn.ConvTranspose2d) else "convolution"
        return f"{_size(module.kernel_size)} {kind}, stride {module.stride[0]}"
    if isinstance(module, nn.Linear):
        return "dense"
    return "(1 + tanh) / 2" if isinstance(module, HalfTanh) else type(module).__name__


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    # currentColor is the page's text colour, in the light, in the dark and in print.
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" '
        f'aria-label="{html.escape(label)}" fill="none" stroke="currentColor">'
        f"{''.join(parts)}</svg>"
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    small: bool = False,
    bold: bool = False,
) -> str:
    size = 12 if small else 14
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}"{weight} '
        f'fill="currentColor" stroke="none">{html.escape(text)}</text>'
    )


def _box(x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" rx="3" '
        'fill="currentColor" fill-opacity=".15"/>'
    )


def _arrow(start: float, end: float) -> str:
    return f'<path d="M{start} 64H{end}m-6 -4l6 4l-6 4"/>'


def _bracket(start: float, end: float, y: float, text: str) -> list[str]:
    middle = (start + end) / 2
    return [f'<path d="M{start} {y - 10}v10H{end}v-10"/>', _text(middle, y + 18, text)]
