"""Take a trained encoder or classifier away: plain torch modules from a run folder."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from funn.artifacts.files import read_json
from funn.artifacts.folder import StageFolder
from funn.artifacts.layout import CHECKPOINT, RESULT
from funn.attacks.fixed_budget.feature_pgd import has_encoder
from funn.errors import UserError
from funn.training.checkpoint import Saved, load

# Which stage of a run folder speaks for it, best first.
_ORDER = ("classifier", "adversarial", "init")


class Run(NamedTuple):
    """A finished stage.

    Attributes:
        name: its run folder's name, e.g. funn-0123456789.
        folder: the stage's folder.
        result: the content of its result.json.
    """

    name: str
    folder: Path
    result: dict[str, Any]

    @property
    def title(self) -> str:
        """Its defence, and what is unusual about how it was trained."""
        return str(self._named()["title"])

    @property
    def changed(self) -> dict[str, Any]:
        """What is unusual about how it was trained, by dotted key or configuration group."""
        return dict(self._named()["changed"])

    def _named(self) -> dict[str, Any]:
        if "title" not in self.result:
            raise UserError(f"{self.folder} is of an older revision: train it again")
        return self.result

    @property
    def train_root(self) -> Path:
        """The folder that the paths of its parents start from."""
        return self.folder.resolve().parent.parent


def load_classifier(path: str | Path, changed_code: bool = False) -> nn.Module:
    """Load a trained classifier, in eval mode, on the CPU.

    Args:
        path: a run folder, its `classifier` folder, or a checkpoint file.
        changed_code: load it, with a warning, though its network's code has changed since training.

    Returns:
        A module from images (N, C, H, W) in [0, 1] to logits (N, classes).

    Raises:
        UserError: if there is no finished classifier, its checkpoint is damaged, or its code has
            changed since.
    """
    return _networks(Path(path), ("classifier",), changed_code)["classifier"].module


def load_encoder(path: str | Path, changed_code: bool = False) -> nn.Module:
    """Load a trained defender's encoder, in eval mode, on the CPU.

    Args:
        path: a run folder, the folder of one of its stages, or a checkpoint file.
        changed_code: load it, with a warning, though its network's code has changed since training.

    Returns:
        A module from images (N, C, H, W) in [0, 1] to features (N, F).

    Raises:
        UserError: if there is no finished stage or no encoder in it, its checkpoint is damaged, or
            its code has changed since.
    """
    networks = _networks(Path(path), _ORDER, changed_code)
    for name in ("classifier", "defender"):
        if name in networks and has_encoder(owner := networks[name].module):
            assert isinstance(owner.encoder, nn.Module)
            return owner.encoder
    there = " and ".join(sorted(networks))
    raise UserError(
        f"{path} has no encoder, but {there}: give a run whose classifier stands on features, or "
        "take its classifier by load_classifier"
    )


def find_run(path: str | Path, stages: tuple[str, ...] = ("classifier",)) -> Run:
    """Find the finished stage that a path names.

    Raises:
        UserError: if there is no such folder or no finished stage in it, or if its checkpoint is
            not the one that was trained.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give a folder that src/train.py printed")
    for folder in (path, *(path / stage for stage in stages)):
        content = read_json(folder / RESULT)
        if content is None or content.get("stage") not in stages:
            continue
        stage = StageFolder(content["stage"], content["fingerprint"], folder)
        result = stage.result()
        if result is not None:
            return Run(folder.resolve().parent.name, folder, result)
    raise UserError(
        f"{path} holds no finished {' or '.join(stages)} stage: train it with python src/train.py"
    )


def _networks(
    path: Path, stages: tuple[str, ...], changed_code: bool
) -> dict[str, Saved[nn.Module]]:
    if not path.is_file():
        path = find_run(path, stages).folder / CHECKPOINT
    return load(path, changed_code)
