"""The one exception that means "the user can mend this", and the checks that raise it."""

import math


class UserError(Exception):
    """A mistake of the user: one clear line that says what is wrong and what to type instead.

    The commands print the line without a traceback and exit with a code that is not 0.
    """


def require(holds: bool, message: str) -> None:
    """Raise a UserError with the message unless `holds`."""
    if not holds:
        raise UserError(message)


def above(name: str, value: float, bound: float) -> None:
    """Require a finite value above a bound."""
    require(math.isfinite(value) and value > bound, f"{name}={value} must be above {bound}")


def at_least(name: str, value: float, bound: float) -> None:
    """Require a finite value of at least a bound."""
    require(math.isfinite(value) and value >= bound, f"{name}={value} must be {bound} or more")
