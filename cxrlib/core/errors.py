"""The one error that is meant for the user: a sentence, not a traceback."""

import difflib
from collections.abc import Iterable

_LONGEST = 2500  # characters of a message


class InputError(ValueError):
    """Input that cannot be used. The message says what was found, what was expected and what to do.

    The command lines print it and leave with exit code 2. What it quotes from a file cannot speak to the terminal, nor
    fill it.
    """

    def __str__(self) -> str:
        said = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in super().__str__()[:_LONGEST])
        return said + " ..." if len(super().__str__()) > _LONGEST else said


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """A hint such as ``; did you mean 'epochs'?``, or nothing where no known name is as close as `cutoff` (0-1)."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def some(items: Iterable, limit: int = 5) -> str:
    """The first few of ``items`` for a message, and how many more there are."""
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
