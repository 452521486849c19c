"""What only shows when two keys of a search-space file are seen together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from eed_search.config.image_sizes import too_small
from eed_search.config.kept_channels import nearest_blocks
from eed_search.config.params import SCORED, ParamValue, is_scored
from eed_search.config.registry import BUILT_IN
from eed_search.config.removal import removes_channels
from eed_search.config.space import MOST_STOP, Choice, Range, Space
from eed_search.config.spec import Spec
from eed_search.config.torchvision_names import TORCHVISION

_DIGITS = 8  # their side in pixels
_OF_A_MEMBER = ("method", "score", "size")  # parameters that each member has its own of


def cross_check(spec: Spec) -> list[str]:
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
    elif data.path is None and data.source in BUILT_IN["source"]:
        problems.append(f"data.path: is missing; source {data.source} needs a folder (in the file or by --data)")
    if data.groups is not None and data.source != "image_folder":
        problems.append(
            f"data.groups: is for image_folder; {data.source} takes `groups` from its own files (npz), or has none"
            if data.source in BUILT_IN["source"]
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
        problems += [f"search.first[{i}].{problem}" for problem in proposal_problems(space, proposal)]
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


def cross_check_around(plain: dict[str, Any], wrong: Sequence[tuple[int | str, ...]]) -> list[str]:
    """Cross-check what is left when the wrong keys take their defaults, so that no mistake waits for the next run."""
    left = _without(plain, {tuple(key for key in where if key not in ("Choice", "Range")) for where in wrong})
    left["name"] = left.get("name", "x")
    if not isinstance(left.get("threat"), dict) or "eps" not in left["threat"]:
        left["threat"] = {"eps": 0.1}
    try:
        problems = cross_check(Spec.model_validate(left))
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


def proposal_problems(space: Space, proposal: dict[str, ParamValue]) -> list[str]:
    """Find which entries of a proposal do not fit the space."""
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
