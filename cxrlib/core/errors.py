"""The error meant for the user: one sentence instead of a traceback."""

import difflib
from collections.abc import Iterable

_LONGEST = 2500  # characters of a message


class InputError(ValueError):
    """Input that cannot be used: what was found, what was expected and what to do. The commands exit with code 2."""

    def __str__(self) -> str:
        message = super().__str__()
        return printable(message[:_LONGEST]) + (" ..." if len(message) > _LONGEST else "")


def printable(text: object) -> str:
    """Text with control characters escaped, so that a file's name can neither control a terminal nor break a table."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """A hint such as ``; did you mean 'epochs'?``, or "" if no known name has a similarity of `cutoff` (0-1)."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def some(items: Iterable, limit: int = 5) -> str:
    """The first `limit` items for a message, and how many more there are."""
    items = [printable(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
