"""What is installed: the pinned versions, the packages, the shipped files, the layers' cost of import."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from eed_search.cli.space_file import packaged_files
from tests.cli.calling import ROOT, python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1].strip()
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
}


def _public(version: str) -> str:
    """Leave out the local suffix: the CPU build of torch is 2.13.0+cpu."""
    return version.partition("+")[0]


def _closure() -> dict[str, Requirement]:
    """Everything that the project and its dev extra need, as far as it is installed."""
    dev = PROJECT["optional-dependencies"]["dev"]
    found: dict[str, Requirement] = {}
    left = [Requirement(line) for line in PROJECT["dependencies"] + dev]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found[name] = requirement
        for line in metadata.requires(name) or []:
            inner = Requirement(line)
            environments = [{**default_environment(), "extra": extra} for extra in ("", *requirement.extras)]
            if inner.marker is None or any(inner.marker.evaluate(environment) for environment in environments):
                left.append(inner)
    return found


def test_constraints_hold_versions_and_nothing_else() -> None:
    """No hosts, no paths, no local suffixes: right on any machine, with any build of torch."""
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line), line


def test_every_needed_package_is_pinned_to_what_is_tested() -> None:
    """The whole resolved set is pinned, and these tests run with it."""
    for name in _closure():
        assert PINS.get(name) == _public(metadata.version(name)), name


def test_every_pin_fits_the_ranges() -> None:
    """The pinned versions are among those that pyproject.toml allows."""
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), line


def test_every_folder_of_code_is_a_package() -> None:
    """Setuptools finds packages by __init__.py: a folder without one would not be installed."""
    for folder in {file.parent for file in (ROOT / "eed_search").rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), folder


def test_every_search_space_is_found_by_name() -> None:
    """What lies in search_spaces/ ships with the package."""
    shipped = {file.stem for file in (ROOT / "search_spaces").glob("*.yaml")}
    assert packaged_files().keys() == shipped
    assert "digits" in shipped


def test_the_package_itself_imports_nothing() -> None:
    """`import eed_search` and the errors cost no time."""
    code = (
        "import sys; import eed_search, eed_search.core.errors; print('numpy' in sys.modules, 'torch' in sys.modules)"
    )
    assert python(code).stdout == "False False\n"


def test_the_runtime_needs_no_torch() -> None:
    """A bundle's runtime runs where torch is not installed."""
    code = "import sys; import eed_search.deployment.runtime; print('torch' in sys.modules)"
    assert python(code).stdout == "False\n"
