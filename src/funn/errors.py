"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake of the user: one clear line that says what is wrong and what to type instead.

    The commands print the line without a traceback and exit with a code that is not 0.
    """
