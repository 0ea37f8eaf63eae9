"""Pictures: the game's images, and what attacks make of test images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from funn.artifacts.layout import EXAMPLES, IMAGES
from funn.report.inputs.results import Result
from funn.report.inputs.stages import reported_stages

_NEAREST = "ddn"  # the attack of suite=strong whose pictures show the least that fools


def pictures(root: Path, results: Sequence[Result], runs: Mapping[str, str]) -> dict[str, bytes]:
    """The game's first, middle and last images, and what attacks make of test images."""
    found = {}
    for name, folder in reported_stages(root, results, runs, "adversarial").items():
        paths = sorted((folder / IMAGES).glob("*.png"))
        for path in dict.fromkeys(paths[place] for place in (0, len(paths) // 2, -1) if paths):
            title = f"{name}, {path.stem}: clean x, attacked A(x), restored D(A(x)), D(x)"
            found[title] = path.read_bytes()
    for result in results:
        if result.attack_changed or result.source is not None:
            continue  # the title says neither
        path = root / result.folder / EXAMPLES
        chosen = result.run in runs.values() and result.attack == "deepfool_l2"
        if chosen and result.protocol == "strict" and path.exists():
            title = f"{result.encoder}, deepfool_l2, strict: clean, adversarial, difference"
            found[title] = path.read_bytes()
        # Of all, to compare: how visible is what fools each classifier?
        if result.attack == _NEAREST and path.exists():
            title = f"{result.encoder}, nearest in L2: clean, adversarial, difference"
            found[title] = path.read_bytes()
    return found
