"""Read a search-space file: YAML, `--set key.path=value`, and every mistake in it at once.

`load` gives a frozen `Spec`, or one `SpecError` whose lines say where, what was given and what is
allowed. What a file may say is in `spec`. Nothing here loads torch or Ray.
"""

from __future__ import annotations

import copy
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from eed_search.config import names, plugins
from eed_search.config.cross_checks import cross_check, cross_check_around, proposal_problems
from eed_search.config.explain import explain
from eed_search.config.old_names import KEYS, with_new_keys
from eed_search.config.spec import Search, Spec
from eed_search.config.yaml_keys import UniqueKeyLoader
from eed_search.core.errors import SpecError

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Override:
    """One `--set key.path=value`."""

    path: tuple[str, ...]
    value: Any

    @classmethod
    def parse(cls, text: str) -> Override:
        """Read `key.path=value`; the value is YAML, so numbers, lists and ranges work.

        Raises:
            SpecError: If there is no `=` or the value is not YAML.
        """
        path, sign, value = text.partition("=")
        if not sign or not all(path.split(".")):
            raise SpecError([f"--set {text!r}: must be key.path=value, such as search.trials=8"])
        try:
            return cls(tuple(path.split(".")), _read_yaml(value))
        except yaml.YAMLError as error:
            raise SpecError([f"--set {path}: {value!r} is not a YAML value ({_first_line(error)})"]) from error


def load(
    path: Path,
    overrides: Sequence[Override] = (),
    note: Callable[[str], None] = lambda text: None,
    *,
    import_plugins: bool = False,
) -> Spec:
    """Read and check a search-space file.

    Entries of the file's `search.first` that only an override of the space makes impossible are left
    out; those that do not fit the file's own space are a mistake.

    Args:
        path: The YAML file.
        overrides: Applied in order before the check, each creating the sections it needs.
        note: Told in one line which entries were left out, and why; not called if none was.
        import_plugins: Run the user's code under `plugins:`, so that the names it registers are known. Without,
            names that it may register are let through.

    Returns:
        The file with every default filled in, its plugins found. Where the data lie is not looked at: they may be
        on another machine. A relative `data.path` is resolved against the current folder when they are read.

    Raises:
        SpecError: With every mistake, one line each.
    """
    as_written = read_table(path)
    if "schemes" in as_written and "search" not in as_written:
        raise SpecError([f"{path.name}: is a benchmark file; run `eed-search benchmark {path}`"])
    as_written = with_new_keys(as_written, path.name, note)
    plain = overridden(as_written, overrides, note)
    folder = Path.cwd() if any(one.path == ("plugins",) for one in overrides) else path.parent
    wrong = [f"{path.name}: {problem}" for problem in plugins.take_in(plain, folder, run=import_plugins)]
    misfits = _misfits(as_written, plain)
    for i in misfits:
        plain["search"]["first"][i] = {}  # fits every space, and leaves the others their numbers in messages
    try:
        spec = parse(plain, path.name)
    except SpecError as error:
        raise SpecError(wrong + error.problems) from error
    if wrong:
        raise SpecError(wrong)
    if not misfits:
        return spec
    reasons = "; ".join(f"[{i}] {reason}" for i, reason in misfits.items())
    note(f"{path.name}: left out of search.first, since --set changed the space: {reasons}")
    first = tuple(proposal for i, proposal in enumerate(spec.search.first) if i not in misfits)
    return spec.model_copy(update={"search": spec.search.model_copy(update={"first": first})})


def read_table(path: Path) -> dict[str, Any]:
    """Read a file's YAML, unchecked.

    Raises:
        SpecError: If there is no such file, or it holds no table.
    """
    try:
        if stat.S_ISFIFO(path.lstat().st_mode):  # nobody may ever write into it
            raise SpecError([f"{path}: is a pipe; give a file"])
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)  # some have no size beforehand
    except FileNotFoundError as error:
        raise SpecError(
            [f"{path}: no such file; name a search-space file, or give none for the embedded digits"]
        ) from error
    except OSError as error:
        raise SpecError([f"{path}: cannot be read ({error})"]) from error
    return table_of(data, str(path))


def table_of(data: bytes, source: str) -> dict[str, Any]:
    """Parse a file's YAML, unchecked.

    Args:
        data: The file's content.
        source: How messages call the file.

    Raises:
        SpecError: If it is too large, or holds no table.
    """
    if len(data) > MAX_FILE_BYTES:
        raise SpecError([f"{source}: larger than 1 MiB; a search-space file is a page of YAML"])
    try:
        plain = _read_yaml(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError([f"{source}: cannot be read ({error})"]) from error
    except yaml.YAMLError as error:
        raise SpecError([f"{source}: is not YAML: {_first_line(error)}"]) from error
    if not isinstance(plain, dict):
        held = "nothing" if plain is None else type(plain).__name__
        raise SpecError([f"{source}: holds {held}, not a table of sections"])
    return plain


def overridden(
    plain: dict[str, Any], overrides: Sequence[Override], note: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Apply `--set` to a copy of a file's content.

    Args:
        plain: The content, by the new names of its sections.
        overrides: Applied in order.
        note: Told in one line of an override that calls a section by its old name.

    Raises:
        SpecError: With every override that names a place below a value.
    """
    changed = copy.deepcopy(plain)
    for override in overrides:
        with_new_keys({override.path[0]: None}, f"--set {'.'.join(override.path)}", note)
    if problems := [problem for override in overrides if (problem := _apply(changed, override))]:
        raise SpecError(problems)
    return changed


def parse(plain: dict[str, Any], source: str) -> Spec:
    """Check a file's content.

    Args:
        plain: What the YAML holds.
        source: How messages call the file.

    Raises:
        SpecError: With every mistake, one line each.
    """
    plain = with_new_keys(plain, source)
    with names.lenient(not plugins.are_loaded(plugins.entries(plain))):
        return _parse(plain, source)


def _parse(plain: dict[str, Any], source: str) -> Spec:
    try:
        spec = Spec.model_validate(plain)
    except ValidationError as error:
        problems = [explain(detail) for detail in error.errors()]
        problems += cross_check_around(plain, [detail["loc"] for detail in error.errors()])
        raise SpecError([f"{source}: {problem}" for problem in problems]) from error
    if problems := cross_check(spec):
        raise SpecError([f"{source}: {problem}" for problem in problems])
    return spec


def to_text(spec: Spec) -> str:
    """Write as a search-space file with every default filled in; `load` reads it back as the same `Spec`."""
    return yaml.safe_dump(spec.to_plain(), sort_keys=False, allow_unicode=True)


class _Loader(UniqueKeyLoader):
    """Refuses aliases, which multiply, and reads 1e-3 as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not used in search-space files")
        return super().compose_node(parent, index)


# YAML 1.1 reads 1e-3 and 0.5e1 as text, for want of a point or a sign; people mean the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _read_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("lists or tables are nested too deeply") from error
    except (ValueError, OverflowError) as error:  # such as the date 2020-13-01
        raise yaml.YAMLError(str(error)) from error


def _first_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


def _apply(plain: dict[str, Any], override: Override) -> str:
    table, path = plain, (KEYS.get(override.path[0], override.path[0]), *override.path[1:])
    for key in path[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            return f"--set {'.'.join(override.path)}: {key} is a value, not a section"
        table = inner
    table[path[-1]] = override.value
    return ""


def _misfits(before: dict[str, Any], after: dict[str, Any]) -> dict[int, str]:
    """Find the proposals that fitted the space before the overrides and do not after, each with one reason."""
    old, new = _proposals_and_space(before), _proposals_and_space(after)
    if old is None or new is None or old.first != new.first:
        return {}  # broken, or the proposals are the command line's own: the check says what is wrong
    return {
        i: problems[0]
        for i, proposal in enumerate(new.first)
        if (problems := proposal_problems(new.space, proposal)) and not proposal_problems(old.space, proposal)
    }


def _proposals_and_space(plain: dict[str, Any]) -> Search | None:
    section = plain.get("search")
    if not isinstance(section, dict):
        return None
    try:
        return Search.model_validate({key: section[key] for key in ("first", "space") if key in section})
    except ValidationError:
        return None
