"""`make dashboard`: the W&B workspace that shows what the runs of a project log.

`specification` describes it as plain data and needs no account; `funn.artifacts.tracking` saves it.
"""

import argparse
import json
from typing import Any

from funn.artifacts.tracked_evaluation import ATTACKS as EVALUATED
from funn.artifacts.tracking import AXES, IMAGES, save_workspace
from funn.config.cli import run
from funn.config.schema import LoggerConfig

Panel = dict[str, Any]

# What suite=table1 runs, under each protocol.
ATTACKS = {
    "strict": ("deepfool_l2", "deepfool_linf", "fgsm", "bim", "local_search"),
    "foolbox1": ("deepfool_l2", "deepfool_linf", "fgsm", "bim", "local_search"),
    "both": ("single_pixel",),
}
_CURVES = ("deepfool_l2", "deepfool_linf")
_TRIALS = [f"{attack}/{protocol}" for protocol, attacks in ATTACKS.items() for attack in attacks]


def specification() -> dict[str, Any]:
    """Return the workspace as plain data: its name and its sections, each with its panels.

    A panel is a `type`, the name of its class in `wandb_workspaces.reports.v2`, and that class's
    arguments, in which {"config": KEY} stands for a key of the configuration.
    """
    sections = {
        "Training losses": _losses(),
        "Constraint": _constraint(),
        "Images": [_media("Clean, attacked, restored, clean restored", [IMAGES])],
        "Robustness": _robustness(),
        "Success against iterations": _curves(),
        "Attacked images": [_media("Clean and attacked", _TRIALS)],
    }
    return {
        "name": "FUNN",
        "sections": [{"name": name, "panels": panels} for name, panels in sections.items()],
    }


def _losses() -> list[Panel]:
    return [
        _line("Attacker's loss", "epoch/attacker_loss"),
        _line("Defender's loss, on what it is given", "epoch/defender_loss"),
        _line("Defender's mse on clean images", "epoch/defender_clean"),
        _line("Classifier's cross-entropy", "epoch/loss"),
        _line("Classifier's training accuracy", "epoch/accuracy"),
        _line("Both players, batch by batch", "batch/attacker_loss", "batch/defender_loss"),
    ]


def _constraint() -> list[Panel]:
    path = {"x": "epoch/perturbation", "title_x": "mse(A(x), x)", "title_y": "mse(x, D(A(x)))"}
    return [
        _line("Slack of the constraint (negative: broken)", "epoch/slack"),
        _line("Slack, batch by batch", "batch/slack"),
        _line("Path of the game (Figure 2)", "epoch/error") | path,
    ]


def _robustness() -> list[Panel]:
    panels: list[Panel] = [{"type": "WeavePanelSummaryTable", "table_name": EVALUATED}]
    for figure, title in (
        ("success_rate_verified", "Success rate, verified"),
        ("noise_level", "Noise level (L2)"),
    ):
        panels += [
            {
                "type": "BarPlot",
                "title": f"{title}: {protocol}",
                "metrics": [f"{attack}/{protocol}/{figure}" for attack in attacks],
            }
            for protocol, attacks in ATTACKS.items()
        ]
    panels += [
        {
            "type": "ScatterPlot",
            "title": f"Success rate, verified, against beta: {attack}, strict",
            "x": {"config": "beta"},
            "y": f"{attack}/strict/success_rate_verified",
            "log_x": True,
        }
        for attack in _CURVES
    ]
    return panels


def _curves() -> list[Panel]:
    return [
        _line(
            f"{attack}, {protocol}",
            *(f"curve/{attack}/{protocol}/{kind}" for kind in ("tracked", "verified")),
        )
        | {"log_x": True, "range_y": [0, 1]}
        for attack in _CURVES
        for protocol in ("strict", "foolbox1")
    ]


def _line(title: str, *metrics: str) -> Panel:
    axis = AXES[metrics[0].partition("/")[0]]
    return {"type": "LinePlot", "title": title, "x": axis, "y": list(metrics)}


def _media(title: str, keys: list[str]) -> Panel:
    return {"type": "MediaBrowser", "title": title, "media_keys": keys, "num_columns": 1}


def main() -> None:
    """Save the workspace and print its address; with --dry-run print what it would be."""
    parser = argparse.ArgumentParser(
        prog="python -m funn.artifacts.dashboard", description=main.__doc__
    )
    parser.add_argument("--dry-run", action="store_true", help="print it as JSON; no account")
    parser.add_argument("--project", default=LoggerConfig.project, help="as in logger.project")
    parser.add_argument("--entity", help="as in logger.entity; your account's own by default")
    options = parser.parse_args()
    if options.dry_run:
        print(json.dumps(specification(), indent=2))
    else:
        print(save_workspace(specification(), options.project, options.entity))


if __name__ == "__main__":
    run(main)
