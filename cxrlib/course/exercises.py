"""The checks behind the notebooks' exercises: each says "not yet", "not quite" or "right", and never raises.

An expected number or word is sealed, so that the check does not tell it; a function that a student writes is compared
with the library's on cases.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

NOT_YET = "not yet: put your answer in the place of None and run this cell again"


def check(answer, sealed: str, digits: int = 3, hint: str = "") -> None:
    """Print whether an answer is the sealed one. answer: a number (compared to `digits` places), a text, or several."""
    if answer is None:
        print(NOT_YET)
    elif seal(answer, digits) == sealed:
        print("right")
    else:
        print(f"not quite: {answer} is not it{'; ' + hint if hint else ''}")


def check_function(mine: Callable | None, theirs: Callable, cases: Sequence[tuple], hint: str = "") -> None:
    """Print whether a student's function returns what the library's does on each case, a tuple of arguments."""
    if mine is None:
        print(NOT_YET)
        return
    for case in cases:
        expected = np.asarray(theirs(*case))
        try:
            found = np.asarray(mine(*case))
            same = found.shape == expected.shape and np.allclose(found, expected, atol=1e-6, equal_nan=True)
        except Exception as error:  # whatever a student's function raises
            print(f"not quite: it raised {type(error).__name__}: {error}{'; ' + hint if hint else ''}")
            return
        if not same:
            print(f"not quite: of {case} it makes {found}, expected {expected}{'; ' + hint if hint else ''}")
            return
    print(f"right, on {len(cases)} cases")


def check_that(truth: bool | None, hint: str = "") -> None:
    """Print whether a statement about a student's work holds; None where there is no work yet."""
    print(NOT_YET if truth is None else "right" if truth else f"not quite{': ' + hint if hint else ''}")


def seal(answer, digits: int = 3) -> str:
    """Eight hex digits of an answer; 0.5 and numpy's 0.50001 have the same, so have a list and a set of names."""
    if isinstance(answer, str):
        text = answer.strip().lower()
    elif np.ndim(answer) or isinstance(answer, set | frozenset) or hasattr(answer, "__iter__"):
        text = ",".join(sorted(seal(one, digits) for one in answer))
    else:
        text = f"{float(answer) + 0:.{digits}f}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]
