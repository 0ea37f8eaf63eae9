"""What is newer than what, in a copied folder too."""

from datetime import datetime
from pathlib import Path

from funn.artifacts.files import read_json
from funn.artifacts.layout import STATUS


def age(result: Path) -> tuple[float, str]:
    """A key to sort results by, the oldest first; the same in a copy that has new file dates.

    Args:
        result: a result.json.

    Returns:
        When its status was written, in seconds (of one that does not say: when the file was); and
        its folder, which decides where an older revision wrote several in one second.
    """
    status = read_json(result.parent / STATUS) or {}
    try:
        told = datetime.fromisoformat(status["time"]).timestamp()
    except (KeyError, ValueError):
        told = result.stat().st_mtime
    return told, str(result.parent)
