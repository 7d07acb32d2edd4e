"""Checks of the notebooks' exercises: each prints "not yet", "not quite" or "right".

An expected number or word is sealed, so that the check does not give it away; a student's function is compared with
the library's on several cases.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

NOT_YET = "not yet: put your answer in the place of None and run this cell again"


def check(answer, sealed: str, digits: int = 3, hint: str = "") -> None:
    """Compare an answer with the sealed one: a number (to `digits` decimal places), a text, or several of them."""
    check_that(None if answer is None else seal(answer, digits) == sealed, f"{answer} is not it", hint)


def check_function(mine: Callable | None, theirs: Callable, cases: Sequence[tuple], hint: str = "") -> None:
    """Compare a student's function with the library's on each case, a tuple of arguments; it may raise anything."""
    if mine is None:
        return check_that(None)
    for case in cases:
        expected = np.asarray(theirs(*case))
        try:
            found = np.asarray(mine(*case))
            same = found.shape == expected.shape and np.allclose(found, expected, atol=1e-6, equal_nan=True)
            problem = f"for {case} it returns {found}, expected {expected}"
        except Exception as error:
            same, problem = False, f"it raised {type(error).__name__}: {error}"
        if not same:
            return check_that(False, problem, hint)
    print(f"right, on {len(cases)} cases")


def check_that(truth: bool | None, *hints: str) -> None:
    """Print whether a statement about a student's work holds; None where there is no work yet."""
    not_quite = ": ".join(filter(None, ("not quite", "; ".join(filter(None, hints)))))
    print(NOT_YET if truth is None else "right" if truth else not_quite)


def seal(answer, digits: int = 3) -> str:
    """Eight hex digits that are the same for 0.5 and numpy's 0.50001, and for a list and a set of the same names."""
    if isinstance(answer, str):
        text = answer.strip().lower()
    elif hasattr(answer, "__iter__") and getattr(answer, "ndim", 1):  # numpy's scalar arrays have __iter__, too
        text = ",".join(sorted(seal(one, digits) for one in answer))
    else:
        text = f"{float(answer) + 0:.{digits}f}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]
