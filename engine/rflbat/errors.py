"""Errors that the command line turns into one line and an exit status, and the hint about an unknown name."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user, described in one line. The command line turns it into exit status 2.

    Example:
        >>> raise UserError("alpha is -1, allowed: greater than 0")
        Traceback (most recent call last):
            ...
        rflbat.errors.UserError: alpha is -1, allowed: greater than 0
    """


class Stopped(Exception):
    """A command ended early, through no mistake in its settings; the command line prints the message.

    Attributes:
        exit_status: exit status of the command line.
    """

    exit_status = 1


def nearest(name: str, options: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known name, if one is similar enough.

    Args:
        name: the unknown name; case is ignored.
        options: the known names.

    Returns:
        ``"; did you mean 'x'?"``, or ``""`` if no name is similar (``difflib`` ratio below 0.6).

    Example:
        >>> nearest("fashion_mnist", ["digits", "mnist", "fashion-mnist"])
        "; did you mean 'fashion-mnist'?"
        >>> nearest("imagenet", ["digits", "mnist"])
        ''
    """
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
