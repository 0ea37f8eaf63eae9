"""What an evaluation finds out about a classifier beyond attacks, each in a folder of its own.

Robust accuracy, hidden gradients, uses of the features, zeros of the gradient: the folder's name
holds the fingerprint of classifier, images, settings and code, so that nothing replaces what was
found of others, or of more images.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from funn.artifacts.files import read_json, write_json
from funn.artifacts.folder import StageFolder
from funn.artifacts.layout import RESULT, with_fingerprint
from funn.artifacts.provenance import provenance
from funn.data.images import Images
from funn.evaluation.victims import Victim, named
from funn.training.code_behind import code_behind, placeless
from funn.training.fingerprint import fingerprint, told

log = logging.getLogger(__name__)

# Does some work under a name, or takes what it gave before the command was killed: plain values.
Once = Callable[[str, Callable[[], Any]], Any]


def study(
    kind: str,
    root: Path,
    victim: Victim,
    test: Images,
    settings: Mapping[str, Any],
    modules: Iterable[str],
    work: Callable[[StageFolder, Once], Mapping[str, Any]],
    reuse: bool,
) -> StageFolder:
    """Find something out of a classifier, or reuse what was found; a kill costs the last note.

    Args:
        kind: what is found out; names the folder.
        root: the victim's folder of evaluations.
        victim: the classifier.
        test: the images that it is found out on.
        settings: all else that it depends on, as plain values.
        modules: the code behind it.
        work: finds it out; what it returns is written to the folder's result.json. It may write
            other files to the folder.
        reuse: whether what is finished stands.

    Returns:
        The folder.
    """
    facts = {
        "classifier": victim.digest,
        "images": test.checksum(),
        "settings": placeless(settings),
        **code_behind(modules).facts(),
    }
    digest = fingerprint({"study": kind, **facts})
    folder = StageFolder(kind, digest, with_fingerprint(root, kind, digest))
    with folder.locked():
        if not reuse:
            _forget(folder)
        elif folder.state() == "finished" and read_json(folder.path / RESULT) is not None:
            folder.amend(**named(victim.facts))
            log.info("%s: reused %s (%s)", kind, folder.path, told(facts))
            return folder
        folder.write_status("running")
        with folder.reporting():
            found = work(folder, _noting(folder))
            about = {"study": kind, "images": len(test.labels), "settings": dict(settings)}
            about |= {"fingerprint": digest, "depends_on": facts}
            write_json(folder.path / RESULT, {**found, **about, **victim.facts, **provenance()})
        folder.write_status("finished")
        _forget(folder)
    return folder


def _noting(folder: StageFolder) -> Once:
    def once(name: str, work: Callable[[], Any]) -> Any:
        path = folder.path / f"note-{name}.json"
        note = read_json(path)
        if note is None:
            note = {"found": work()}
            write_json(path, note)
        return note["found"]

    return once


def _forget(folder: StageFolder) -> None:
    for path in folder.path.glob("note-*.json"):
        path.unlink()
