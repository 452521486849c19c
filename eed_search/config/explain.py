"""What pydantic found wrong, in one line: where, what was given, what is allowed."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from eed_search.config.section import shown
from eed_search.config.space import Range
from eed_search.config.spec import Spec


def explain(detail: Any, root: type[BaseModel] = Spec) -> str:
    """Say in one line what pydantic found: where, what was given, what is allowed.

    Args:
        detail: One of `ValidationError.errors()`.
        root: What the file was checked against.
    """
    location = [part for part in detail["loc"] if part not in ("Choice", "Range")]
    keys = [part for part in location if isinstance(part, str)]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    kind, given = detail["type"], shown(detail["input"])
    section = _section_at(keys[:-1], root)
    key = keys[-1] if keys else ""
    about = _about(section, key)
    if kind == "missing":
        return f"{where}: is missing; give a value{about}"
    if kind in ("extra_forbidden", "invalid_key"):
        known = list(section.model_fields) if section else []
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: is not a key here; {hint}known: {', '.join(known)}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{where}: {given} is outside the allowed {_bounds(section, key)}{about}"
    if kind in ("not_a_number", "float_type", "int_type", "finite_number"):
        return f"{where}: {given} is not a number; allowed: {_bounds(section, key)}{about}"
    if kind in ("int_from_float", "int_parsing_size"):
        return f"{where}: {given} is not a whole number; allowed: {_bounds(section, key)}{about}"
    if kind == "literal_error":
        expected = detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f"{where}: {given} is not one of {expected}"
    if kind == "string_pattern_mismatch":
        return f"{where}: {given} is not allowed{about}"
    if kind in ("string_type", "bool_type", "bool_parsing"):
        return f"{where}: {given} is not {'text' if kind == 'string_type' else 'true or false'}{about}"
    if kind in ("tuple_type", "too_short", "string_too_short"):
        return f"{where}: {given}: {'must be a list' if kind == 'tuple_type' else 'is empty; give at least one value'}{about}"
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
        goes_on = re.match(r"(\.\w+|\[\d+\][.\w]*): ", message)  # the message names a place below this one
        return f"{where}{message}" if goes_on else f"{where}: {message}"
    if kind in ("model_type", "model_attributes_type"):
        return f"{where}: {given} is not a section of keys"
    return f"{where}: {given}: {detail['msg'][0].lower()}{detail['msg'][1:]}{about}"


def _section_at(location: list[str], root: type[BaseModel]) -> type[BaseModel] | None:
    section: Any = root
    for key in location:
        info = section.model_fields.get(key) if section else None
        kind = info.annotation if info else None
        if type(None) in get_args(kind):  # a section that may be left out
            kind = next(one for one in get_args(kind) if one is not type(None))
        if get_origin(kind) is tuple:  # a list of sections
            kind = get_args(kind)[0]
            kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if info and section is None and Range in get_args(kind):
            section = Range
    return section if section is None or issubclass(section, BaseModel) else None


def _about(section: type[BaseModel] | None, key: str) -> str:
    info = section.model_fields.get(key) if section else None
    return f" ({info.description})" if info and info.description else ""


def _bounds(section: type[BaseModel] | None, key: str) -> str:
    info = section.model_fields.get(key) if section else None
    low = high = without = ""
    for rule in info.metadata if info else ():
        if (bound := getattr(rule, "ge", getattr(rule, "gt", None))) is not None:
            low = _number(bound)
        if (bound := getattr(rule, "le", getattr(rule, "lt", None))) is not None:
            high = _number(bound)
        if (bound := getattr(rule, "gt", getattr(rule, "lt", None))) is not None:
            without = _number(bound)
    if low and high:
        return f"{low}..{high}{f' without {without}' if without else ''}"
    return f"{'above ' if without else ''}{low}{'' if without else ' and more'}" if low else "a finite number"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) or value < 10**6 else str(value)
