"""Names that a search-space file may use: built in (`config.registry`), or registered by user code.

User code registers names through `eed_search.plugins`; `config.plugins` imports it. Where the plugins that a file
names are not imported (a `check`, a report), unknown names are let through: the launch has checked them.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from eed_search.config.registry import BUILT_IN, Kind
from eed_search.config.torchvision_names import TORCHVISION, problem
from eed_search.core.errors import ModelError, SpecError

_FORM = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKES: dict[Kind, tuple[str, ...]] = {  # the kinds that user code may register
    "score": ("model", "batch"),
    "method": ("base", "target", "work"),
    "model": ("width", "num_classes", "in_channels", "mean", "std"),
    "source": ("data",),
}


@dataclass(frozen=True)
class Registered:
    """What user code registered under a name.

    Attributes:
        kind: What the name stands for.
        name: As search-space files give it.
        make: The function or class.
        place: Its file and line, for messages.
        plugin: The entry of `plugins:` that was being imported; empty outside of an import.
        digest: Hash of the plugin's source files: part of the key of every stage that uses the name.
    """

    kind: Kind
    name: str
    make: Callable[..., Any]
    place: str
    plugin: str = ""
    digest: str = ""


_registered: dict[tuple[Kind, str], Registered] = {}
_importing: ContextVar[tuple[str, str]] = ContextVar("_importing", default=("", ""))
_lenient: ContextVar[bool] = ContextVar("_lenient", default=False)


def register(kind: Kind, name: str, make: Callable[..., Any]) -> None:
    """Register a function or class under a name.

    Args:
        kind: What it is.
        name: Lower-case letters, digits and underscores.
        make: Takes what its kind is called with, in that order.

    Raises:
        SpecError: If the name is taken or of the wrong form, or the function cannot be called so; names file and line.
    """
    place = _place(make)
    what = f"{place}: {kind} {name!r}"
    if not isinstance(name, str) or not _FORM.fullmatch(name):
        raise SpecError(
            [f"{what}: is no name; take a lower-case letter, then letters, digits and underscores, 32 at most"]
        )
    if name in BUILT_IN[kind]:
        raise SpecError([f"{what}: is built in; choose another name"])
    if not callable(make):
        raise SpecError([f"{what}: is a {type(make).__name__}; register a function or a class"])
    other = _registered.get((kind, name))
    if other is not None and other.place != place and (other.plugin or _importing.get()[0]):
        raise SpecError([f"{what}: is registered by {other.place} already; choose another name for one of them"])
    takes = _TAKES[kind]
    try:
        signature = inspect.signature(make)
    except ValueError:  # some built-in callables tell none
        signature = None
    if signature is not None:
        try:
            signature.bind(*takes)
        except TypeError as error:
            raise SpecError(
                [f"{what}: is called with ({', '.join(takes)}), but takes {signature}; change its arguments"]
            ) from error
    plugin, digest = _importing.get()
    _registered[kind, name] = Registered(kind, name, make, place, plugin, digest)


def find(kind: Kind, name: str) -> Registered | None:
    """Give what user code registered under a name; none for a built-in or unknown one."""
    return _registered.get((kind, name))


def needed(kind: Kind, name: str) -> Registered:
    """Give what user code registered under a name.

    Raises:
        ModelError: If nothing is.
    """
    if (found := find(kind, name)) is None:
        raise ModelError(
            f"{kind} {name!r} is not registered here (known: {', '.join(known(kind))}); name the file that registers it"
            " under plugins:"
        )
    return found


def digest_of(kind: Kind, name: str) -> dict[str, str]:
    """Give what a stage's key holds of a registered name: its plugin's digest; nothing for a built-in one."""
    found = find(kind, name)
    return {} if found is None else {"plugin": found.digest}


def by_plugin(plugin: str) -> list[Registered]:
    """List what one entry of `plugins:` registered."""
    return [one for one in _registered.values() if one.plugin == plugin]


def known(kind: Kind) -> list[str]:
    """List the names of a kind, built-in ones first."""
    names = [*BUILT_IN[kind], *(name for of, name in _registered if of == kind)]
    return [*names, f"{TORCHVISION}NAME"] if kind == "model" else names


def checked(kind: Kind) -> Callable[[Any], Any]:
    """Make a validator that refuses unknown names, with the closest known one."""

    def check(name: Any) -> Any:
        if kind == "model" and isinstance(name, str) and name.startswith(TORCHVISION):
            if wrong := problem(name):
                raise ValueError(wrong)
            return name
        if name in known(kind) or (_lenient.get() and kind in _TAKES and isinstance(name, str)):
            return name
        close = difflib.get_close_matches(str(name), known(kind), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{name!r} is not one of {', '.join(known(kind))}{hint}")

    return check


@contextmanager
def lenient(yes: bool) -> Iterator[None]:
    """Let unknown names through, because the plugins that may register them are not imported."""
    token = _lenient.set(yes)
    try:
        yield
    finally:
        _lenient.reset(token)


@contextmanager
def importing(plugin: str, digest: str) -> Iterator[None]:
    """Ascribe what is registered meanwhile to a plugin; if it fails, it has registered nothing.

    Args:
        plugin: Its entry; what it registered before is forgotten.
        digest: Hash of its source files.
    """
    before = dict(_registered)
    forget(plugin)
    token = _importing.set((plugin, digest))
    try:
        yield
    except BaseException:
        _registered.clear()
        _registered.update({key: one for key, one in before.items() if one.plugin != plugin})
        raise
    finally:
        _importing.reset(token)


def forget(plugin: str) -> None:
    """Take a plugin's names away."""
    for key, one in list(_registered.items()):
        if one.plugin == plugin:
            del _registered[key]


def _place(make: object) -> str:
    """Say where a function or class is written."""
    make = inspect.unwrap(make) if callable(make) else make
    code = getattr(make, "__code__", None)
    if code is not None:
        return f"{code.co_filename}, line {code.co_firstlineno}"
    if not isinstance(make, type):
        return "user code"
    try:
        file, line = inspect.getsourcefile(make), inspect.getsourcelines(make)[1]
    except (TypeError, OSError):
        return "user code"
    return f"{file}, line {line}"


def unknown_names(plain: dict[str, Any]) -> list[str]:
    """List the names that a file uses and nothing here has registered, such as `score my_score`.

    Args:
        plain: The file's sections as tables.
    """
    space, pool = plain["search"]["space"], plain["team"]["pool"]
    used: list[tuple[Kind, str]] = [("source", plain["data"]["source"]), ("model", plain["model"]["name"])]
    used += [("method", str(value)) for value in space["method"].get("values", ())]
    used += [("score", str(value)) for value in (*space["score"].get("values", ()), *pool["scores"])]
    unknown = [(kind, name) for kind, name in used if name not in known(kind) and not name.startswith(TORCHVISION)]
    return [f"{kind} {name}" for kind, name in dict.fromkeys(unknown)]
