"""What an evaluation logs to W&B: each attack and each study as soon as it is finished."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funn.artifacts.files import read_json
from funn.artifacts.layout import EXAMPLES, FEATURES, MASKING, RESULT, ROBUST, in_cascade
from funn.artifacts.tracking import AXES, Table, log_media, wandb_run
from funn.config.schema import Launch, LoggerConfig

if TYPE_CHECKING:
    import wandb

Result = Mapping[str, Any]

# The keys of the tables.
ATTACKS = "attacks"
CASCADE = "attacks on what was left"
ROBUST_ACCURACY = "robust accuracy"
VERDICTS = "masking verdicts"
CHECKS = "masking checks"
USES = "uses of the features"

_ORIGIN = ("run", "defense", "source", "attack", "protocol")
_FIGURES = (
    "success_rate", "success_rate_verified", "noise_level", "noise_level_verified", "median_l2",
    "rounding_share", "images", "attacked", "clean_accuracy", "seconds",
)  # fmt: skip


@contextmanager
def tracked_evaluation(
    settings: LoggerConfig, *, name: str, group: str, config: Mapping[str, Any], folder: Path
) -> Iterator[Callable[[Path], None]]:
    """Open the W&B run of one evaluation; see `wandb_run` for the arguments.

    Yields:
        What is to be called with the folder of each attack and each study once it is finished. It
        does nothing where there is no run.
    """
    with wandb_run(
        settings, name=name, group=group, job_type="evaluation", config=config, folder=folder
    ) as run:
        yield _nothing if run is None else _EvaluationLog(run)


def group_of(trained: Result | None, launch: Launch) -> str:
    """The group of an evaluation's run: that of the training that it attacks.

    Args:
        trained: the result of that training; None for a classifier that was trained elsewhere.
        launch: how the evaluation was started: it is on its own where no training is known.
    """
    return str((trained or {}).get("group", launch.group))


def _nothing(folder: Path) -> None:
    del folder


class _EvaluationLog:
    """Logs what an evaluation finds, folder by folder."""

    def __init__(self, run: "wandb.Run") -> None:
        self.run = run
        self.rows: dict[str, list[Sequence[Any]]] = {ATTACKS: [], CASCADE: []}

    def __call__(self, folder: Path) -> None:
        """Log what the result of an attack or a study says."""
        result = read_json(folder / RESULT) or {}
        study = result.get("study")
        if study is not None:
            log_study = {ROBUST: _log_robust, MASKING: _log_masking, FEATURES: _log_features}
            log_study[study](self.run, result)
        elif in_cascade(folder):  # its figures are those of a few images
            self._tabulate(CASCADE, result, {})
        else:
            self._attack(folder, result)

    def _attack(self, folder: Path, result: Result) -> None:
        name = f"{result['attack']}/{result['protocol']}"
        for figure in _FIGURES:
            self.run.summary[f"{name}/{figure}"] = result[figure]
        picture = folder / EXAMPLES
        self._tabulate(ATTACKS, result, {name: picture} if picture.exists() else {})
        if "curve" in result:
            _log_curve(self.run, result)

    def _tabulate(self, key: str, result: Result, pictures: Mapping[str, Path]) -> None:
        """Log a table with one row more."""
        norm = result["settings"].get("norm")
        origin, figures = ([result[name] for name in names] for names in (_ORIGIN, _FIGURES))
        self.rows[key].append([*origin, norm, *figures])
        table = Table([*_ORIGIN, "norm", *_FIGURES], self.rows[key])
        log_media(self.run, {key: table}, pictures)


def _log_curve(run: "wandb.Run", result: Result) -> None:
    """Log the share of images fooled after so many iterations, at each number where it rises.

    The last point is that of all iterations, so that curves of different runs end together.
    """
    curve, name = result["curve"], f"curve/{result['attack']}/{result['protocol']}"
    points = list(zip(curve["steps"], curve["tracked"], curve["verified"], strict=True))
    last = points[-1][1:] if points else (0.0, 0.0)
    for steps, tracked, verified in dict.fromkeys([*points, (result["settings"]["steps"], *last)]):
        run.log({AXES["curve"]: steps, f"{name}/tracked": tracked, f"{name}/verified": verified})


def _log_robust(run: "wandb.Run", result: Result) -> None:
    """Log robust accuracy by norm and eps, as a table and as a curve that starts at eps 0."""
    rows = []
    for norm, budgets in result["settings"]["radii"].items():
        run.log({AXES["robust"]: 0.0, f"robust/{norm}": result["clean_accuracy"]})
        for eps in budgets:
            found = result[norm][f"{eps:g}"]
            accuracy = found["robust_accuracy"]
            rows.append([result["run"], norm, eps, accuracy, *found["interval"], found["images"]])
            run.log({AXES["robust"]: eps, f"robust/{norm}": accuracy})
    columns = ["run", "norm", "eps", "robust_accuracy", "from", "to", "images"]
    log_media(run, {ROBUST_ACCURACY: Table(columns, rows)})


def _log_masking(run: "wandb.Run", result: Result) -> None:
    """Log the verdict on the classifier and on each control, and every check behind it.

    A control hides its gradients on purpose: it is meant to be flagged.
    """
    verdicts, checks = [], []
    for name in [name for name, of in result.items() if isinstance(of, dict) and "checks" in of]:
        found, is_control = result[name], name != "classifier"
        flagged = [check["name"] for check in found["checks"] if not check["passed"]]
        role = "control, meant to be flagged" if is_control else "examined"
        verdicts.append([result["run"], name, role, _verdict(not flagged), "; ".join(flagged)])
        run.summary[f"masking/{name}/flagged"] = len(flagged)
        for check in found["checks"]:
            figures = [float(check["figure"]), float(check["bound"])]
            row = [check["name"], *figures, _verdict(check["passed"]), check["meaning"]]
            checks.append([result["run"], name, role, *row])
    who = ["run", "classifier", "role"]
    log_media(
        run,
        {
            VERDICTS: Table([*who, "verdict", "flagged by"], verdicts),
            CHECKS: Table(
                [*who, "check", "figure", "bound", "verdict", "beyond the bound"], checks
            ),
        },
    )


def _verdict(passed: bool) -> str:
    return "passed" if passed else "flagged"


def _log_features(run: "wandb.Run", result: Result) -> None:
    """Log what the features are good for, on clean and on attacked images."""
    rows = []
    attacker = [result["settings"][key] for key in ("norm", "eps")]
    for use in ("neighbours", "retrieval", "probe"):
        for images, share in result[use].items():
            run.summary[f"features/{use}/{images}"] = share
        rows.append([result["run"], use, *attacker, result[use]["clean"], result[use]["attacked"]])
    columns = ["run", "use", "norm", "eps", "clean", "attacked"]
    log_media(run, {USES: Table(columns, rows)})
