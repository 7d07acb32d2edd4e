"""Checks of the notebooks' exercises, which print "not yet", "not quite" or "right"; what they expect is sealed."""

import hashlib
import operator
from collections.abc import Callable, Iterator, Sequence

import numpy as np

NOT_YET = "not yet: put your answer in the place of None and run this cell again"


def check(answer, sealed: str, digits: int = 3, hint: str = "") -> None:
    """Compare an answer with the sealed one: a number (to `digits` decimal places), a word, or several (`seal`)."""
    wanted, given = sealed.strip("{}").split(","), list(_seals(answer, digits))
    in_order = not isinstance(answer, set) and all(map(operator.contains, given, wanted))
    right = set(wanted) <= {seal for seals in given for seal in seals} if sealed.startswith("{") else in_order
    check_that(None if answer is None else right and len(given) == len(wanted), f"{answer} is not it", hint)


def check_near(answer, reference: Callable, within: float = 0.001, hint: str = "") -> None:
    """Compare one or several numbers with those that `reference()` gives, which is called only for an answer."""
    if answer is None:
        return check_that(None)
    expected = np.asarray(reference(), float)
    try:
        given = np.asarray(answer, float)
        near = given.shape == expected.shape and np.allclose(given, expected, rtol=0, atol=within)
    except (TypeError, ValueError):  # not numbers
        near = False
    check_that(near, f"{answer} is not it", hint)


def check_function(mine: Callable | None, theirs: Callable, cases: Sequence[tuple], hint: str = "") -> None:
    """Compare a student's function with the library's, also in raising a ValueError, on each tuple of arguments."""
    if mine is None:
        return check_that(None)
    for case in cases:
        found, expected = _outcome(mine, case), _outcome(theirs, case)
        if isinstance(expected, ValueError):
            same, problem = isinstance(found, ValueError), f"for {case} expected a ValueError"
        elif isinstance(found, Exception):
            same, problem = False, f"it raised {type(found).__name__}: {found}"
        else:
            same = found.shape == expected.shape and found.dtype.kind in "biuf"  # neither None nor text
            same = same and np.allclose(found, expected, atol=1e-6, equal_nan=True)
            problem = f"for {case} it returns {found}, expected {expected}"
        if not same:
            return check_that(False, problem, hint)
    print(f"right, on {len(cases)} cases")


def _outcome(function: Callable, case: tuple) -> np.ndarray | Exception:
    try:
        return np.asarray(function(*case))
    except Exception as error:
        return error


def check_that(truth: bool | None, *hints: str) -> None:
    """Print whether a statement about a student's work holds; None where there is no work yet."""
    not_quite = ": ".join(filter(None, ("not quite", "; ".join(filter(None, hints)))))
    print(NOT_YET if truth is None else "right" if truth else not_quite)


def seal(answer, digits: int = 3) -> str:
    """Eight hex digits per value, a set's sorted. Numbers count to `digits` places, words without case and margins."""
    seals = [first for first, *_ in _seals(answer, digits)]
    return "{" + ",".join(sorted(seals)) + "}" if isinstance(answer, set) else ",".join(seals)


def _seals(answer, digits: int) -> Iterator[list[str]]:
    """Per value its seal, and those of its neighbours, one of which may be meant at an edge of rounding."""
    several = not isinstance(answer, str) and getattr(answer, "ndim", hasattr(answer, "__iter__"))
    for value in answer if several else [answer]:
        try:
            near = [float(value) + step * 10.0**-digits for step in (0, -0.501, 0.501)]
            texts = [f"{round(number, digits) + 0:.{digits}f}" for number in near]  # + 0 makes -0.0 a 0.0
        except (TypeError, ValueError, OverflowError):
            texts = [str(value).strip().lower()]
        yield [hashlib.sha256(text.encode()).hexdigest()[:8] for text in texts]
