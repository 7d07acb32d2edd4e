"""Declared parameters: conversion, refusal in one sentence, and what is expected in words."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydantic import Field

from cxrlib.core.config import Config, Numbers, expected
from cxrlib.core.errors import InputError


class Oven(Config):
    heat: float = Field(180.0, gt=0, le=300)
    minutes: int = Field(10, ge=1)
    mode: Literal["top", "bottom"] = "top"
    fan: bool = False
    recipe: str = ""
    racks: Numbers = Field([1])


@given(st.integers(1, 10**6), st.floats(0.1, 300), st.sampled_from(["top", "bottom"]), st.booleans())
def test_text_reads_as_what_it_was_written_from(minutes, heat, mode, fan):
    oven = Oven(minutes=str(minutes), heat=repr(heat), mode=mode, fan=str(fan).lower())
    assert oven == Oven(minutes=minutes, heat=heat, mode=mode, fan=fan)
    assert oven.replace(heat=200) == Oven(minutes=minutes, heat=200, mode=mode, fan=fan)


def test_scalars_of_numpy_and_paths_become_plain_values():
    oven = Oven(minutes=np.int64(3), heat=np.float32(0.5), fan=np.bool_(True), recipe=Path("a"))
    assert [type(value) for value in oven.model_dump().values()] == [float, int, str, bool, str, list]


NUMBERS = "expected whole numbers from 0, .*of at most 18 digits"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"heat": 301}, "heat 301 cannot be used; expected a number above 0 and at most 300"),
        ({"heat": "0"}, "heat 0 cannot be used"),
        ({"heat": float("nan")}, "heat nan cannot be used"),
        ({"heat": float("inf")}, "heat inf cannot be used"),
        ({"minutes": 2.5}, "minutes 2.5 cannot be used; expected a whole number at least 1"),
        ({"minutes": True}, "minutes True cannot be used"),
        ({"minutes": "9" * 40}, "minutes 9{40} cannot be used; expected a whole number .*of at most 18 digits"),
        ({"racks": f"1,{'9' * 40}"}, f"racks 1,9{{40}} cannot be used; {NUMBERS}"),
        ({"racks": [1, 10**40]}, f"racks .*1, 10{{40}}.* cannot be used; {NUMBERS}"),
        ({"minutes": "soon"}, "minutes 'soon' cannot be used"),
        ({"mode": "botom"}, "mode 'botom' is unknown; expected one of top, bottom; did you mean 'bottom'?"),
        ({"fan": "perhaps"}, "fan 'perhaps' cannot be used; expected true or false"),
        ({"recipe": None}, "recipe None cannot be used; expected text"),
        ({"minute": 3}, "unknown parameter 'minute'.*did you mean 'minutes'"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(values, sentence):
    with pytest.raises(InputError, match=sentence.replace("?", r"\?")) as error:
        Oven(**values)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        Oven().replace(**values)


def test_a_parameter_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Oven().heat = 3


def test_the_range_in_words():
    assert expected(Oven, "heat") == "a number above 0 and at most 300"
    assert expected(Oven, "mode") == "one of top, bottom"
    assert expected(Oven, "fan") == "true or false"
