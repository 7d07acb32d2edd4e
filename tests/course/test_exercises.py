"""The checks of the exercises do not give the answer away, accept it in any form, and report errors as text."""

import numpy as np
import pandas as pd
import pytest

from cxrlib.course.exercises import NOT_YET, check, check_function, check_near, check_that, seal


@pytest.mark.parametrize(
    ("answer", "same"),
    [(3, np.int64(3)), (0.5, np.float32(0.50004)), ("Edema", " edema "), ({"a", "b"}, ["b", "a"]),
     ((1, 2), np.array([1, 2])), ({"a", "b"}, pd.Index(["b", "a"])), (3, np.array(3)), ({1, 2}, (2, 1.0004))],
)  # fmt: skip
def test_one_answer_in_two_forms_is_right_in_both(answer, same, capsys):
    check(same, seal(answer))
    assert capsys.readouterr().out == "right\n"


@pytest.mark.parametrize(
    ("sealed", "answer", "digits"),
    [(0.1235, 0.12350000001, 3), (0.1235, 0.12349999999, 3), (0.1235, 0.124, 3), (0.1235, 0.123, 3), (2.5, 3, 0),
     (2.5, 2, 0), (-0.0001, 0, 3), (0.25, 0.2, 1), (0.25, 0.3, 1), ((0.25, 0.1), (0.3, 0.1), 1)],
)  # fmt: skip
def test_an_answer_at_an_edge_of_rounding_is_right(sealed, answer, digits, capsys):
    check(answer, seal(sealed, digits), digits)
    assert capsys.readouterr().out == "right\n"


@pytest.mark.parametrize("swapped", [(307.2, 716.8), [307.2, 716.8], {307.2, 716.8}])
def test_where_order_matters_another_order_is_not_right(swapped, capsys):
    check(swapped, seal((716.8, 307.2), 1), 1)
    assert capsys.readouterr().out.startswith("not quite")


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        (3, 4),
        (0.5, 0.502),
        ("Edema", "Mass"),
        ({"a"}, ["a", "b"]),
        ((0.5, 0.1), (0.5, 0.2)),
        (3, len),
        ({1, 2}, [1, 1]),
    ],
)
def test_another_answer_is_told_so_with_the_hint(answer, other, capsys):
    check(other, seal(answer), hint="count patients")
    said = capsys.readouterr().out
    assert said.startswith("not quite: ")
    assert said.endswith("; count patients\n")


def test_the_digits_are_as_wide_as_asked():
    assert seal(0.12, 1) == seal(0.149, 1) != seal(0.151, 1)


def test_no_answer_is_not_a_wrong_one(capsys):
    check(None, seal(1))
    check_function(None, len, [])
    check_that(None)
    assert capsys.readouterr().out == f"{NOT_YET}\n" * 3


@pytest.mark.parametrize(
    ("mine", "said"),
    [(lambda a, b: a + b, "right, on 2 cases"), (lambda a, b: a * b, "not quite: for (1, 2) it returns 2, expected 3"),
     (lambda a, b: [a, b], "not quite: for (2, 2) it returns [2 2], expected 4"),
     (lambda a: a, "not quite: it raised TypeError"),
     (lambda a, b: None, "not quite: for (2, 2) it returns None, expected 4"),
     (lambda a, b: "4", "not quite: for (2, 2) it returns 4, expected 4")],
)  # fmt: skip
def test_a_function_is_compared_with_the_librarys(mine, said, capsys):
    check_function(mine, lambda a, b: a + b, [(2, 2), (1, 2)])
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("mine", "said"),
    [(int, "right, on 2 cases"), (lambda text: 7, "not quite: for ('x',) expected a ValueError"),
     (lambda text: 7 if text == "7" else {}[text], "not quite: for ('x',) expected a ValueError")],
)  # fmt: skip
def test_where_the_librarys_function_refuses_a_value_the_students_must_too(mine, said, capsys):
    check_function(mine, int, [("7",), ("x",)])
    assert capsys.readouterr().out.startswith(said)


def test_a_statement(capsys):
    check_that(True)
    check_that(False, "the parts overlap")
    assert capsys.readouterr().out == "right\nnot quite: the parts overlap\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, NOT_YET), (0.5004, "right"), (np.float32(0.5), "right"), (0.52, "not quite"), ([0.5], "not quite"),
     ("half", "not quite"), (np.nan, "not quite"), ((0.5, 0.5), "not quite")],
)  # fmt: skip
def test_an_answer_is_compared_with_a_reference_of_this_run(answer, said, capsys):
    check_near(answer, lambda: 1 / 2, hint="divide")
    assert capsys.readouterr().out.startswith(said)


def test_a_reference_is_computed_only_for_an_answer(capsys):
    check_near(None, lambda: pytest.fail("computed without an answer"))
    check_near([1, 2.0], lambda: [1, 2])
    assert capsys.readouterr().out == f"{NOT_YET}\nright\n"
