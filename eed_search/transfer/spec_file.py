"""Read a benchmark file: YAML, `--set key.path=value`, and every mistake in it at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from eed_search.config import plugins
from eed_search.config.explain import explain
from eed_search.config.loader import Override, overridden, read_table
from eed_search.config.registry import BUILT_IN
from eed_search.config.spec import Data
from eed_search.core.errors import SpecError
from eed_search.transfer.spec import BenchmarkSpec, problems

_DIGITS = 1797
_LEAST_TRAINED = 100


def load(path: Path, overrides: Sequence[Override] = ()) -> BenchmarkSpec:
    """Read and check a benchmark file; the user's code under `plugins` is run, so that its names are known.

    Args:
        path: The YAML file.
        overrides: Applied in order before the check.

    Returns:
        The file with every default filled in.

    Raises:
        SpecError: With every mistake, one line each.
    """
    plain = read_table(path)
    if "search" in plain and "schemes" not in plain:
        raise SpecError([f"{path.name}: is a search-space file; run `eed-search launch {path}`"])
    plain = overridden(plain, overrides)
    folder = Path.cwd() if any(one.path == ("plugins",) for one in overrides) else path.parent
    wrong = [f"{path.name}: {problem}" for problem in plugins.take_in(plain, folder, run=True)]
    try:
        spec = parse(plain, path.name)
    except SpecError as error:
        raise SpecError(wrong + error.problems) from error
    if wrong:
        raise SpecError(wrong)
    return spec


def parse(plain: dict[str, Any], source: str) -> BenchmarkSpec:
    """Check a file's content.

    Args:
        plain: What the YAML holds.
        source: How messages call the file.

    Raises:
        SpecError: With every mistake, one line each.
    """
    try:
        spec = BenchmarkSpec.model_validate(plain)
    except ValidationError as error:
        details = error.errors()
        # a list with a wrong entry counts as empty: that is no mistake of its own
        entries = {detail["loc"][0] for detail in details if len(detail["loc"]) > 1}
        found = [explain(d, BenchmarkSpec) for d in details if d["type"] != "too_short" or d["loc"][0] not in entries]
        wrong = {detail["loc"][0] for detail in details}
        raise SpecError([f"{source}: {one}" for one in found + _around(plain, wrong)]) from error
    if found := problems(spec) + data_problems(spec.data):
        raise SpecError([f"{source}: {one}" for one in found])
    return spec


def to_text(spec: BenchmarkSpec) -> str:
    """Write as a benchmark file with every default filled in; `load` reads it back as the same `BenchmarkSpec`."""
    return yaml.safe_dump(spec.to_plain(), sort_keys=False, allow_unicode=True)


def data_problems(data: Data) -> list[str]:
    """Find what is wrong with the data's section, without reading the images."""
    if data.source != "digits":
        if data.path is None:
            if data.source not in BUILT_IN["source"]:
                return []  # user code knows where its images are
            return [f"data.path: is missing; source {data.source} needs a folder (in the file or by --data)"]
        return []
    found = []
    if data.path is not None:
        found.append("data.path: digits come with scikit-learn; leave path out, or take another source")
    if data.augment != "none":
        found.append(f"data.augment: {data.augment} would turn digits into other digits, or cut them off; take none")
    held = data.num_validation + data.num_fresh + (data.num_test or data.num_fresh)
    if held + (data.num_train or _LEAST_TRAINED) > _DIGITS:
        found.append(
            f"data: {held + (data.num_train or 0)} images asked for; digits has 1,797 in all, and training needs at least {_LEAST_TRAINED}"
        )
    return found


def _around(plain: dict[str, Any], wrong: set[int | str]) -> list[str]:
    """Cross-check what is left without the wrong sections, so that no mistake waits for the next run."""
    left = {key: value for key, value in plain.items() if key not in wrong}
    try:
        spec = BenchmarkSpec.model_validate({"name": "x", "models": [{}]} | left)
    except ValidationError:
        return []
    found = problems(spec) + (data_problems(spec.data) if "data" not in wrong else [])
    return [one for one in found if not any(str(key) in one for key in wrong)]
