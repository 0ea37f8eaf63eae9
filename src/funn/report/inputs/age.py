"""What is newer than what, in a copied folder too."""

from datetime import datetime
from pathlib import Path

from funn.artifacts.files import read_json
from funn.artifacts.layout import STATUS


def age(result: Path) -> tuple[float, float]:
    """A key to sort results by, the oldest first.

    Args:
        result: a result.json.

    Returns:
        When its status was written, in seconds, which a copy of the folder keeps (0 if it does not
        say); and when the file was written.
    """
    status = read_json(result.parent / STATUS) or {}
    try:
        told = datetime.strptime(status["time"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (KeyError, ValueError):
        told = 0.0
    return told, result.stat().st_mtime
