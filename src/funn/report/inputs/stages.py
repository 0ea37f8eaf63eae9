"""Where the stages lie that a result's classifier was trained by."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from funn.artifacts.layout import checkpoint_of, latest_runs
from funn.report.inputs.results import Result


def stage_folder(root: Path, result: Result, stage: str) -> Path | None:
    """Return the folder of a stage under `root`/train; None if it has none, or it is gone.

    Not the newest of its defence: the one whose networks the result speaks of.
    """
    for parent in result.parents:
        checkpoint = checkpoint_of(root, str(parent["path"]))
        if parent["stage"] == stage and checkpoint.exists():
            return checkpoint.parent
    return None


def reported_stages(
    root: Path, results: Sequence[Result], runs: Mapping[str, str], stage: str
) -> dict[str, Path]:
    """Return the folder of a stage of each run that is reported and has one, by its encoder.

    Args:
        root: the folder outputs/.
        results: of every attack.
        runs: the run that stands for each defence.
        stage: such as "adversarial".
    """
    folders = {
        result.encoder: stage_folder(root, result, stage)
        for run in runs.values()
        for result in results
        if result.run == run
    }
    return {encoder: folder for encoder, folder in folders.items() if folder is not None}


def latest_stages(root: Path, stage: str) -> dict[str, Path]:
    """Return the folder of a stage of each defence's newest run that has one, by the defence.

    Args:
        root: the folder outputs/.
        stage: such as "adversarial".
    """
    folders = {run.name: run / stage for run in latest_runs(root)}
    return {name: folder for name, folder in folders.items() if folder.exists()}
