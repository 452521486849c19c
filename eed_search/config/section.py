"""What all sections of a file have in common: they are frozen, know their keys, and take no text for a number."""

from __future__ import annotations

import math
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from eed_search.config.addresses import without_passwords


class Section(BaseModel):
    """A table of keys: frozen, without unknown keys, and every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Refuse text and truth values for numbers; pydantic would convert them."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = set(get_args(annotation) or (annotation,)) - {type(None)}
        if kinds <= {int, float} and isinstance(value, bool | str):
            raise PydanticCustomError("not_a_number", "is not a number")
        return value


def is_scalar(value: object) -> bool:
    """Whether a value is text or a finite number."""
    return (isinstance(value, str | int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def shown(value: object) -> str:
    """Write a value as the file would, for a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return without_passwords(repr(value))
