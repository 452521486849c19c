"""Write docs/keys.md, the reference of a search-space file's keys, from the code that checks such a file.

    python docs/make_keys.py

Names, defaults, ranges and meanings are those of `eed_search.config.spec`; nothing is written down twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from eed_search.config.spec import Range, Recipe, Space, Spec

FILE = Path(__file__).with_name("keys.md")
PACKAGED = {
    "digits": "the embedded default: scikit-learn's digits, a small CNN, two cores, minutes",
    "cifar10_small": "CIFAR-10 on two cores: ResNet-18 of half the usual width, 16,000 training images",
    "cifar10_resnet18": "the paper's first setting: ResNet-18 on CIFAR-10, a pool of 12 members; written for GPUs",
    "svhn_vgg16": "the paper's second setting: VGG-16 on SVHN, a pool of 12 members; written for GPUs",
    "radmm_digits": "digits, members by adversarial training and ADMM pruning at once",
    "cstar_digits": "digits, members of low rank under one budget",
    "mixed_digits": "digits, the search chooses how each member is made",
    "benchmark_digits": "for `eed-search benchmark`: base-crafted attacks on pruned networks, on digits",
    "benchmark_cifar10": "for `eed-search benchmark`: the same on CIFAR-10, three seeds",
}
HEAD = """\
# Every key of a search-space file

Made by `python docs/make_keys.py` from `eed_search/config/spec.py`, in the file's order. Only `name` and `threat.eps` must be given; what is
left out has the default. `eed-search check FILE` finds every mistake, `--set KEY=VALUE` changes one key for one launch, such as
`--set base.epochs=5`. Names that `plugins` register are allowed like those listed ([plugins.md](plugins.md)). How it all works together: [guide.md](guide.md).
"""
FILES = """\
## Files that come with it

`eed-search launch` takes `search_spaces/NAME.yaml`, also where only the package is installed. The last two are files of
another kind, with keys of their own: [benchmark.md](benchmark.md).
"""
SPACE = """\
Each key of the space is one value (fixed), a list (a choice), or, for numbers, a range `{low, high}` between two ends, both included. A range
may have `log: true`, drawn evenly on a logarithmic scale, or a `step`. `method`, `score` and `size` are chosen for each member by itself.
"""


def page() -> str:
    """The whole page."""
    filled = Spec.model_validate({"name": "x", "threat": {"eps": 0}})
    top = {name: info for name, info in Spec.model_fields.items() if not _is_section(info)}
    parts = [HEAD, "## At the top of the file\n", _table(filled, top, "")]
    for name, info in Spec.model_fields.items():
        if _is_section(info):
            parts += _sections(info, getattr(filled, name), name)
    rows = "".join(f"| `{name}` | {about} |\n" for name, about in PACKAGED.items())
    return "\n".join([*parts, FILES, f"| file | what it is |\n| --- | --- |\n{rows}"])


def _sections(info: FieldInfo, filled: BaseModel, path: str) -> Iterator[str]:
    """A section, then those inside it."""
    section = type(filled)
    yield f"## `{path}`\n"
    if section is Space:
        yield SPACE
        yield _space(filled)
        return
    described = f"{info.description}."
    yield f"{described[0].upper() + described[1:] if section is Recipe else inspect.cleandoc(section.__doc__ or '')}\n"
    base = Spec.model_fields["base"].default
    keys = dict(section.model_fields)
    if isinstance(filled, Recipe) and path != "base":
        same = [name for name, key in Recipe.model_fields.items() if _same(filled, base, name, keys[name], key)]
        yield f"As in [`base`](#base), with the same defaults: {', '.join(f'`{name}`' for name in same)}.\n"
        keys = {name: key for name, key in keys.items() if name not in same}
    yield _table(filled, {name: key for name, key in keys.items() if not _is_section(key)}, path)
    for name, key in keys.items():
        if _is_section(key):
            yield from _sections(key, getattr(filled, name), f"{path}.{name}")


def _same(filled: BaseModel, base: BaseModel, name: str, key: FieldInfo, base_key: FieldInfo) -> bool:
    """Whether a training run's key is the base's: default, range and meaning."""
    if _is_section(key):
        return bool(getattr(filled, name) == getattr(base, name))
    return _row(filled, name, key, "") == _row(base, name, base_key, "")


def _table(filled: BaseModel, fields: dict[str, FieldInfo], path: str) -> str:
    rows = "".join(_row(filled, name, info, path) for name, info in fields.items())
    return f"| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n{rows}" if rows else ""


def _row(filled: BaseModel, name: str, info: FieldInfo, path: str) -> str:
    default = "must be given" if info.is_required() else f"`{_yaml(getattr(filled, name))}`"
    key = f"{path}.{name}" if path else name
    return f"| `{key}` | {default} | {_allowed(type(filled), name, info)} | {_cell(info)} |\n"


def _space(filled: BaseModel) -> str:
    rows = ""
    for name, info in Space.model_fields.items():
        default = getattr(filled, name)
        if isinstance(default, Range):
            given = {"low": default.low, "high": default.high} | ({"log": True} if default.log else {})
            shown = _yaml(given)
        else:
            shown = _yaml(default.values[0] if len(default.values) == 1 else default.values)
        rows += f"| `search.space.{name}` | {_refused(Space, name)} | `{shown}` | {_cell(info)} |\n"
    return f"| key | values | default | meaning |\n| --- | --- | --- | --- |\n{rows}"


def _cell(info: FieldInfo) -> str:
    return (info.description or "").replace("|", "\\|")


def _is_section(info: FieldInfo) -> bool:
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


def _allowed(section: type[BaseModel], name: str, info: FieldInfo) -> str:
    """What a key may hold, in words."""
    kinds = [
        kind
        for kind in (get_args(info.annotation) if _is_union(info) else (info.annotation,))
        if kind is not type(None)
    ]
    kind = kinds[0]
    none = ", or null" if len(kinds) < len(get_args(info.annotation)) and _is_union(info) else ""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(kind)) + none
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if get_origin(inner) is Literal:
            return "a list of " + ", ".join(f"`{one}`" for one in get_args(inner))
        if get_origin(inner) is Annotated:
            return f"a list of {_refused(section, name)}"
        return {float: "a list of numbers", str: "a list of texts"}.get(inner, "a list of tables")
    if kind is bool:
        return "`true`, `false`"
    if kind in (int, float):
        return ("whole numbers, " if kind is int else "") + _bounds(info) + none
    if info.metadata and not none and (names := _refused(section, name)):
        return names
    return f"text{none}"


def _is_union(info: FieldInfo) -> bool:
    return type(None) in get_args(info.annotation)


def _bounds(info: FieldInfo) -> str:
    low = high = None
    for rule in info.metadata:
        low = next(
            (
                f"{word}{_number(getattr(rule, one))}"
                for one, word in (("ge", ""), ("gt", "above "))
                if hasattr(rule, one)
            ),
            low,
        )
        high = next(
            (
                f"{word}{_number(getattr(rule, one))}"
                for one, word in (("le", ""), ("lt", "below "))
                if hasattr(rule, one)
            ),
            high,
        )
    if low is None:
        return "any number"
    return f"{low} to {high}" if high else (low if low.startswith("above") else f"{low} and more")


def _number(value: float) -> str:
    return f"{value:,}" if value >= 10_000 else f"{value:g}"


def _refused(section: type[BaseModel], name: str) -> str:
    """What a wrong value is told to be instead; nothing where any text will do."""
    for wrong in ("?", ["?"]):
        try:
            section.model_validate({name: wrong})
        except ValidationError as error:
            text = error.errors()[0]["msg"]
            for before in ("allowed: ", "is not one of "):
                if before in text:
                    found = text.partition(before)[2].partition("; did you mean")[0]
                    return found if before == "allowed: " else ", ".join(f"`{one}`" for one in found.split(", "))
    return ""


def _yaml(value: Any) -> str:
    """A value as the file would hold it, on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_yaml(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_yaml(one)}' for key, one in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
