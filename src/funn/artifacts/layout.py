"""Where everything lies under outputs/: every name of a folder and a file, once.

train/<defense>-<fingerprint>/<stage>/     a stage: result, status, metrics, networks
train/init-<fingerprint>/init/             the init stage, which several defences share
latest/<defense>                           a link to the run that was trained last
eval/<classifier>/<attack>-<protocol>-<fingerprint>/   an attack: result, status, records
eval/<classifier>/worst/...                the attacks of a cascade, on what was left of the images
eval/<classifier>/<study>-<fingerprint>/   what was found out about a classifier, besides attacks
report/index.html                          the page
"""

from collections.abc import Iterator
from pathlib import Path

# The files of a stage, an attack or a study.
RESULT = "result.json"
STATUS = "status.json"
# Of a stage.
CHECKPOINT = "model.ckpt"
RESUME = "last.ckpt"
METRICS = "metrics.csv"
# Of a stage that is not finished: the W&B run that it goes on with.
TRACKED = "wandb_run.json"
IMAGES = "images"
# Of an attack.
RECORDS = "records.parquet"
EXAMPLES = "examples.png"
# Of a study of robust accuracy: the distance of each image's nearest adversarial image.
RADII = "radii.parquet"

# The kinds of study.
ROBUST = "robust_accuracy"
MASKING = "masking"
FEATURES = "features"
GRADIENTS = "gradients"


def run_folder(outputs: Path, owner: str, fingerprint: str) -> Path:
    """The folder of a training: its owner is a defence, or "init"."""
    return outputs / "train" / f"{owner}-{fingerprint}"


def checkpoint_of(outputs: Path, relative: str) -> Path:
    """The checkpoint that a result names, as `run/stage/file`."""
    return outputs / "train" / relative


def stage_results(outputs: Path, stage: str) -> Iterator[Path]:
    """The result of every training's stage of this name."""
    return (outputs / "train").glob(f"*/{stage}/{RESULT}")


def latest(outputs: Path, defense: str) -> Path:
    """The link to the run that was trained last with a defence."""
    return outputs / "latest" / defense


def latest_runs(outputs: Path) -> list[Path]:
    """Every such link, by name."""
    return sorted((outputs / "latest").glob("*"))


def victim_folder(outputs: Path, victim: str) -> Path:
    """The folder of all evaluations of a classifier."""
    return outputs / "eval" / victim


def cascade_folder(victim: Path) -> Path:
    """Where the attacks of a cascade lie in a classifier's folder."""
    return victim / "worst"


def in_cascade(folder: Path) -> bool:
    """Whether the folder of an attack is that of a cascade."""
    return folder.parent == cascade_folder(folder.parent.parent)


def attack_name(attack: str, protocol: str, oblivious: bool) -> str:
    """What the folder of an attack is called, before its fingerprint."""
    return f"{attack}-{protocol}{'-oblivious' if oblivious else ''}"


def with_fingerprint(parent: Path, name: str, fingerprint: str) -> Path:
    """The folder of an attack or a study."""
    return parent / f"{name}-{fingerprint}"


def evaluations(outputs: Path) -> Iterator[Path]:
    """The result of every attack and study, but for those within a cascade."""
    return (outputs / "eval").glob(f"*/*/{RESULT}")


def studies_of(outputs: Path, kind: str) -> Iterator[Path]:
    """The result of every study of one kind."""
    return (outputs / "eval").glob(f"*/{kind}-*/{RESULT}")


def report_folder(outputs: Path) -> Path:
    """Where the page and its tables go."""
    return outputs / "report"


def page_path(outputs: Path) -> Path:
    """The page."""
    return report_folder(outputs) / "index.html"
