"""Read a search-space file: YAML, `--set key.path=value`, and every mistake in it at once.

`load` gives a frozen `Spec`, or one `SpecError` whose lines say where, what was given and what is
allowed. What a file may say is in `spec`. Nothing here loads torch or Ray.
"""

from __future__ import annotations

import copy
import difflib
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from eed_search.config import names, plugins
from eed_search.config.image_sizes import too_small
from eed_search.config.kept_channels import nearest_blocks
from eed_search.config.old_names import KEYS, with_new_keys
from eed_search.config.params import SCORED, ParamValue, is_scored
from eed_search.config.spec import MOST_STOP, Choice, Range, Search, Space, Spec, shown
from eed_search.config.torchvision_names import TORCHVISION
from eed_search.config.yaml_keys import UniqueKeyLoader
from eed_search.core.errors import SpecError

MAX_FILE_BYTES = 1 << 20
SPACE_FILE = "search_space.yaml"  # in a run's folder
_DIGITS = 8  # their side in pixels
_OF_A_MEMBER = ("method", "score", "size")  # parameters that each member has its own of


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
        problems += _cross_check_around(plain, [detail["loc"] for detail in error.errors()])
        raise SpecError([f"{source}: {problem}" for problem in problems]) from error
    if problems := _cross_check(spec):
        raise SpecError([f"{source}: {problem}" for problem in problems])
    return spec


def to_text(spec: Spec) -> str:
    """Write as a search-space file with every default filled in; `load` reads it back as the same `Spec`."""
    return yaml.safe_dump(spec.to_plain(), sort_keys=False, allow_unicode=True)


def _cross_check_around(plain: dict[str, Any], wrong: Sequence[tuple[int | str, ...]]) -> list[str]:
    """Cross-check what is left when the wrong keys take their defaults, so that no mistake waits for the next run."""
    left = _without(plain, {tuple(key for key in where if key not in ("Choice", "Range")) for where in wrong})
    left["name"] = left.get("name", "x")
    if not isinstance(left.get("threat"), dict) or "eps" not in left["threat"]:
        left["threat"] = {"eps": 0.1}
    try:
        problems = _cross_check(Spec.model_validate(left))
    except ValidationError:
        return []
    paths = {".".join(str(key) for key in where if isinstance(key, str)) for where in wrong}
    # A default that stands in for a wrong value may clash with the rest: not the file's mistake.
    return [problem for problem in problems if not any(path in problem for path in paths)]


def _without(table: dict[str, Any], wrong: set[tuple[int | str, ...]]) -> dict[str, Any]:
    """Copy a table without the keys at the places given; a wrong list entry takes its list with it."""
    kept: dict[str, Any] = {}
    for key, value in table.items():
        below = {where[1:] for where in wrong if where and where[0] == key}
        if not below:
            kept[key] = value
        elif isinstance(value, dict) and all(where and isinstance(where[0], str) for where in below):
            kept[key] = _without(value, below)
    return kept


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
        if (problems := _proposal_problems(new.space, proposal)) and not _proposal_problems(old.space, proposal)
    }


def _proposals_and_space(plain: dict[str, Any]) -> Search | None:
    section = plain.get("search")
    if not isinstance(section, dict):
        return None
    try:
        return Search.model_validate({key: section[key] for key in ("first", "space") if key in section})
    except ValidationError:
        return None


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


def _cross_check(spec: Spec) -> list[str]:
    """Find what only shows when two keys are seen together."""
    problems = []
    data, space = spec.data, spec.search.space
    if data.source == "digits":
        if data.path is not None:
            problems.append("data.path: digits come with scikit-learn; leave path out, or take source npz or cifar10")
        if data.augment != "none":
            problems.append(
                f"data.augment: {data.augment} would turn digits into other digits, or cut them off; take none"
            )
        held = data.num_validation + data.num_fresh + (data.num_test or 0) + (data.num_train or 0)
        if held > 1797 or (data.num_train is None and held > 1697):
            problems.append(f"data: {held} images asked for; digits has 1,797 in all, and training needs at least 100")
    elif data.path is None and data.source in names.BUILT_IN["source"]:
        problems.append(f"data.path: is missing; source {data.source} needs a folder (in the file or by --data)")
    if data.groups is not None and data.source != "image_folder":
        problems.append(
            f"data.groups: is for image_folder; {data.source} takes `groups` from its own files (npz), or has none"
            if data.source in names.BUILT_IN["source"]
            else f"data.groups: is for image_folder; let source {data.source} give Images with groups"
        )
    if data.image_size is not None and data.source != "image_folder":
        problems.append(f"data.image_size: {data.source} has images of one size; leave it out, or take image_folder")
    if data.test_share is not None and data.num_test is not None:
        problems.append("data.test_share: num_test says how many already; leave one of them out")
    side = _DIGITS if data.source == "digits" else data.image_size
    if side is not None and (problem := too_small(spec.model.name, side, side)):
        problems.append(problem)
    methods = space.method.values if isinstance(space.method, Choice) else ()
    if spec.team.mode == "pool" and (unscored := [str(method) for method in methods if not is_scored(str(method))]):
        problems.append(
            f"search.space.method: {unscored[0]} does not look at scores, by which a pool's members differ; take"
            f" {', '.join(SCORED)}, or team.mode direct"
        )
    own_width = spec.model.name.startswith(TORCHVISION)
    if any(removes_channels(spec, str(method)) for method in methods) and not own_width:
        sizes = space.size.values if isinstance(space.size, Choice) else (space.size.low,)
        named = [("search.space.size", size) for size in sizes]
        named += [(f"baselines.sizes[{i}]", size) for i, size in enumerate(spec.baselines.sizes) if 0 < size <= 1]
        for key, size in named:
            width, block = spec.model.width, spec.members.block
            if isinstance(size, int | float) and size < 1 and not nearest_blocks(width, size, block):
                problems.append(
                    f"{key}: {size:g} of {width} channels is {size * width:g}, which rounds to no block of {block};"
                    " take a larger size, a smaller members.block or a wider model"
                )
    problems += [
        f"baselines.sizes[{i}]: {size:g} is outside the allowed 0..1 without 0 (fraction of channels kept)"
        for i, size in enumerate(spec.baselines.sizes)
        if not 0 < size <= 1
    ]
    problems += _gate_problems(spec)
    for i, proposal in enumerate(spec.search.first):
        problems += [f"search.first[{i}].{problem}" for problem in _proposal_problems(space, proposal)]
    return problems


def _gate_problems(spec: Spec) -> list[str]:
    """The threshold has another unit behind each rule."""
    space, given = spec.search.space, spec.gate.model_fields_set
    highest = space.gate_threshold.high if isinstance(space.gate_threshold, Range) else max(map(float, space.gate_threshold.values))  # fmt: skip
    if spec.gate.rule != "margin":
        if highest <= MOST_STOP:
            return []
        return [
            f"search.space.gate_threshold: {highest:g} is outside the allowed 0..{MOST_STOP:g} (stop probability; above 1"
            " runs every member); a lead in logits needs gate.rule margin"
        ]
    problems = [
        f"gate.{name}: is for rules threshold and map; leave it out, or take one of these"
        for name in ("sharpness", "tau")
        if name in given and getattr(spec.gate, name) != 1.0  # a resolved file says every default
    ]
    if "gate_threshold" not in space.model_fields_set:
        problems.append(
            "search.space.gate_threshold: is missing; with gate.rule margin it is a lead in logits, such as"
            " {low: 0.1, high: 5, log: true}"
        )
    return problems


def removes_channels(spec: Spec, method: str) -> bool:
    """Whether a method's members have fewer channels than the base."""
    if method == "radmm":
        return spec.members.radmm.set == "filter"
    return method in SCORED and spec.members.granularity == "channel"  # a registered method's: only its making tells


def is_sized_before(spec: Spec, method: str) -> bool:
    """Whether the size alone says how many channels each layer of a method's members has."""
    learns = method == "learned" and spec.members.learned.budget == "global"
    return removes_channels(spec, method) and not learns


def _proposal_problems(space: Space, proposal: dict[str, ParamValue]) -> list[str]:
    problems = []
    for key, value in proposal.items():
        head, _, tail = key.partition(".")
        name = tail if re.fullmatch("member[1-8]", head) and tail in _OF_A_MEMBER else key
        dimension = getattr(space, name, None)
        if dimension is None or (name in _OF_A_MEMBER) != (name != key):
            known = [n for n in Space.model_fields if n not in _OF_A_MEMBER]
            known += [f"member1.{name}" for name in _OF_A_MEMBER]
            close = difflib.get_close_matches(key, known, n=1)
            problems.append(
                f"{key}: is not a parameter;{f' did you mean {close[0]}?' if close else ''} known: {', '.join(known)}, …"
            )
        elif isinstance(dimension, Choice) and value not in dimension.values:
            problems.append(f"{key}: {value!r} is not one of search.space's {', '.join(map(str, dimension.values))}")
        elif isinstance(dimension, Range) and (isinstance(value, str) or not dimension.low <= value <= dimension.high):
            problems.append(f"{key}: {value!r} is outside search.space's {dimension.low:g}..{dimension.high:g}")
        elif name == "num_members" and value != int(value):
            problems.append(f"{key}: {value!r} is not a whole number")
    return problems
