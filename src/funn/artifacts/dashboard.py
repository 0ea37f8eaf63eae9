"""`make dashboard`: the W&B workspace that shows what the runs of a project log.

`specification` describes it as plain data and needs no account; `funn.artifacts.tracking` saves it.
"""

import argparse
import json
from typing import Any

from funn.artifacts.tracked_evaluation import ATTACKS as EVALUATED
from funn.artifacts.tracked_evaluation import CASCADE, CHECKS, ROBUST_ACCURACY, USES, VERDICTS
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
# What the stages of each defence log by batch and by epoch: what each `record`s.
LOSSES = {
    "Adversarial game": {
        "attacker_loss": "Attacker's loss",
        "defender_loss": "Defender's loss, on what it is given",
        "perturbation": "Perturbation, mse(A(x), x)",
        "error": "Error, mse(x, D(A(x)))",
        "slack": "Slack of the constraint (negative: broken)",
    },
    "Robust features (funn_pgd)": {
        "attacked_distance": "Distance of the attacked features",
        "clean_distance": "Distance of the clean features",
    },
    "Classifier and adversarial training": {
        "loss": "Cross-entropy",
        "accuracy": "Training accuracy",
        "robust_accuracy": "Training accuracy under PGD (adversarial_training)",
    },
    "MagNet": {
        "reformer_loss": "Reformer's mse",
        "shallow_loss": "Shallow auto-encoder's mse",
    },
    "APE-GAN": {
        "generator_loss": "Generator's loss",
        "discriminator_loss": "Discriminator's loss",
        "restoration_error": "Restoration, mse(x, G(A(x)))",
    },
}
# What is measured at the end of an epoch alone.
EXTRAS = {
    "Adversarial game": {"defender_clean": "Defender's mse on clean images"},
    "Robust features (funn_pgd)": {"worst_distance": "How far an attack moves the features"},
    "MagNet": {"held_out_rejected": "Share of held-out images that are rejected"},
}
_CURVES = ("deepfool_l2", "deepfool_linf")
_NORMS = ("l2", "linf")
_USES = ("neighbours", "retrieval", "probe")
_TRIALS = [f"{attack}/{protocol}" for protocol, attacks in ATTACKS.items() for attack in attacks]


def specification() -> dict[str, Any]:
    """Return the workspace as plain data: its name and its sections, each with its panels.

    A panel is a `type`, the name of its class in `wandb_workspaces.reports.v2`, and that class's
    arguments, in which {"config": KEY} stands for a key of the configuration.
    """
    sections = {
        **{name: _losses(name) for name in LOSSES},
        "Images": [_media("Clean, attacked, restored, clean restored", [IMAGES])],
        "Robustness": _robustness(),
        "Success against iterations": _curves(),
        "Robust accuracy": _robust_accuracy(),
        "Gradient masking": _masking(),
        "Uses of the features": _features(),
        "Attacked images": [_media("Clean and attacked", _TRIALS)],
    }
    return {
        "name": "FUNN",
        "sections": [{"name": name, "panels": panels} for name, panels in sections.items()],
    }


def _losses(section: str) -> list[Panel]:
    """A panel for each metric by epoch, then by batch."""
    losses = LOSSES[section]
    panels = [
        *(_line(title, f"epoch/{name}") for name, title in losses.items()),
        *(_line(title, f"epoch/{name}") for name, title in EXTRAS.get(section, {}).items()),
        *(_line(f"{title}, batch by batch", f"batch/{name}") for name, title in losses.items()),
    ]
    if section == "Adversarial game":
        path = {"x": "epoch/perturbation", "title_x": "mse(A(x), x)", "title_y": "mse(x, D(A(x)))"}
        panels.append(_line("Path of the game (Figure 2)", "epoch/error") | path)
    return panels


def _robustness() -> list[Panel]:
    panels: list[Panel] = [_table(EVALUATED)]
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


def _robust_accuracy() -> list[Panel]:
    curves = [_line(f"Robust accuracy against eps, {norm}", f"robust/{norm}") for norm in _NORMS]
    curves = [curve | {"range_y": [0, 1]} for curve in curves]
    return [*curves, _table(ROBUST_ACCURACY), _table(CASCADE)]


def _masking() -> list[Panel]:
    flagged = [f"masking/{name}/flagged" for name in ("classifier", "saturated", "quantised")]
    title = "Checks that flag it (the controls are meant to be flagged)"
    return [
        _table(VERDICTS),
        {"type": "BarPlot", "title": title, "metrics": flagged},
        _table(CHECKS),
    ]


def _features() -> list[Panel]:
    return [
        _table(USES),
        *(
            {
                "type": "BarPlot",
                "title": f"Uses of the features, {images} images",
                "metrics": [f"features/{use}/{images}" for use in _USES],
            }
            for images in ("clean", "attacked")
        ),
    ]


def _table(key: str) -> Panel:
    return {"type": "WeavePanelSummaryTable", "table_name": key}


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
