"""Parameters that are declared once, each with its type, default, range or choices and help; pydantic checks them."""

import os
import re
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import expanded

Natural = Annotated[int, Field(ge=0, lt=2**32)]  # a seed, a number of images
_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
_KINDS |= {list[Natural]: "whole numbers from 0, separated by commas", list[str]: "names, separated by commas"}
_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _listed(value):
    """The items of "a,b", which is how a command line gives a list."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


Place = Annotated[str, AfterValidator(expanded)]  # a path, or what leads to one: weights
Names = Annotated[list[str], BeforeValidator(_listed)]
Numbers = Annotated[list[Natural], BeforeValidator(_listed)]
Places = Annotated[Names, AfterValidator(lambda paths: list(map(expanded, paths)))]
Archs = Annotated[Names, AfterValidator(lambda names: [":".join(map(expanded, name.split(":", 1))) for name in names])]


class Config(BaseModel):
    """The base of declared parameters: immutable, checked, read from text ("3e-4"); InputError names a wrong one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __init__(self, **values):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(_sentence(type(self), error.errors()[0])) from None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        """numpy's scalars as Python's, paths as text; True is refused where a number is expected."""
        plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
        plain |= {name: os.fspath(value) for name, value in plain.items() if isinstance(value, os.PathLike)}
        for name, value in plain.items():
            kind = cls.model_fields[name].annotation if name in cls.model_fields else bool
            if isinstance(value, bool) and kind is not bool:
                raise InputError(f"{name} {value!r} cannot be used; expected {expected(cls, name)}")
            numbers = _listed(value) if kind == list[Natural] else [value] if kind is int else []
            if isinstance(numbers, list) and any(len(str(number)) > 18 for number in numbers):
                raise InputError(f"{name} {value} cannot be used; expected {expected(cls, name)}, of at most 18 digits")
        return plain

    def replace(self, **changes) -> Self:
        """A copy with some parameters changed, checked like any other."""
        return type(self)(**self.model_dump() | changes)


def expected(kind: type[Config], name: str) -> str:
    """What a parameter may be, in words: "a number above 0 and at most 3"."""
    field = kind.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    limits = [f"{word} {getattr(limit, short):g}" for limit in field.metadata for short, word in _LIMITS.items()
              if hasattr(limit, short)]  # fmt: skip
    return f"{_KINDS[field.annotation]} {' and '.join(limits)}".strip()


def _sentence(kind: type[Config], error: dict) -> str:
    if "error" in error.get("ctx", {}):  # raised as an InputError by a validator
        return str(error["ctx"]["error"])
    name, value = str(error["loc"][0]), error["input"]
    if error["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return f"unknown parameter {name!r}; expected one of {', '.join(known)}{nearest(name, known)}"
    if error["type"] == "literal_error":
        close = nearest(str(value), get_args(kind.model_fields[name].annotation))
        return f"{name} {value!r} is unknown; expected {expected(kind, name)}{close}"
    is_number = isinstance(value, str) and re.fullmatch(r"(?i)[-+]?(\d*\.?\d+|\d+\.|inf|nan)(e[-+]?\d+)?", value)
    return f"{name} {value if is_number else repr(value)} cannot be used; expected {expected(kind, name)}"
