"""From what stands on the command line to a checked search-space file: its path, options, `--set`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

import eed_search
from eed_search.cli.console import say
from eed_search.config.loader import Override, load, overridden, read_table
from eed_search.config.spec import Data, Spec
from eed_search.core.errors import SpecError
from eed_search.system.cores import usable_cores

DEFAULT_NAME = "digits"


@dataclass(frozen=True)
class Changes:
    """What the command line changes in a file; the named options win over `--set`.

    Attributes:
        sets: Each `--set` as typed.
        data: Folder of the images.
        trials: Number of trials.
        seed: The search's seed.
        storage: URL of the shared storage.
    """

    sets: Sequence[str] = ()
    data: Path | None = None
    trials: int | None = None
    seed: int | None = None
    storage: str | None = None

    def overrides(self) -> tuple[list[Override], list[str]]:
        """Give what to replace, in order, and what is wrong with each `--set` that cannot be read."""
        found: list[Override] = []
        problems: list[str] = []
        for text in self.sets:
            try:
                found.append(Override.parse(text))
            except SpecError as error:
                problems += error.problems
        data = None if self.data is None else str(self.data)
        options = (
            (("data", "path"), data),
            (("search", "trials"), self.trials),
            (("seed",), self.seed),
            (("storage", "url"), self.storage),
        )
        return found + [Override(key, value) for key, value in options if value is not None], problems


def packaged_files() -> dict[str, Path]:
    """Find the search-space files that come with eed-search, by name without `.yaml`."""
    package = Path(eed_search.__file__).parent
    # Installed, the files lie inside the package; in a checkout beside it.
    folder = next((f for f in (package / "search_spaces", package.parent / "search_spaces") if f.is_dir()), None)
    return {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find(file: Path | None) -> Path:
    """Find a file: as a path, else as the name of a packaged one (`digits`, `search_spaces/digits.yaml`).

    Raises:
        SpecError: If there is none; says which are packaged.
    """
    wanted = Path(DEFAULT_NAME) if file is None else file
    if file is not None and file.exists():
        return file
    packaged = packaged_files()
    plain = str(wanted.parent) in (".", "search_spaces") and wanted.suffix in ("", ".yaml")
    if plain and (found := packaged.get(wanted.stem)):
        return found
    raise SpecError([f"{wanted}: no such file; give a search-space file, or a packaged one: {', '.join(packaged)}"])


def read(
    file: Path | None,
    changes: Changes,
    note: Callable[[str], None] = say,
    *,
    data_here: bool = True,
    import_plugins: bool = True,
) -> Spec:
    """Read and check a file with the command line's changes, and whether its data can be read.

    Args:
        file: As given.
        changes: What the command line changes in it.
        note: Told which proposals the changes leave without a place; prints them by default.
        data_here: Whether the data lie on this machine; else only their path is looked at.
        import_plugins: Whether to run the user's code under `plugins:`, so that the names it registers are known.

    Returns:
        The file with every default filled in.

    Raises:
        SpecError: With every mistake, one line each.
    """
    from eed_search.data.sources import readable  # here: loads NumPy

    notes: list[str] = []
    overrides, problems = changes.overrides()
    look = readable if data_here else _on_cluster
    path = find(file)
    try:
        spec = load(path, overrides, note=notes.append, import_plugins=import_plugins)
    except SpecError as error:
        raise SpecError(problems + error.problems + data_problems(path, overrides, look)) from error
    problems += [f"{path.name}: {problem}" for problem in look(spec.data)]
    if not problems and data_here and (problem := _too_large(spec)):
        problems.append(f"{path.name}: {problem}")
    if problems:
        raise SpecError(problems)
    for line in notes:
        note(line)
    return spec


def _too_large(spec: Spec) -> str:
    """Say why this machine cannot hold the images as often as a search does: once for each trial at a time, and once for the probe."""
    from eed_search.data.memory import too_large

    at_once = max(1, int(usable_cores() / spec.resources.cpu)) if spec.resources.cpu else 1
    return too_large(spec.data, 1 + at_once)


def data_problems(path: Path, overrides: Sequence[Override], look: Callable[[Data], list[str]]) -> list[str]:
    """Look at the data of a file that is wrong elsewhere, so that no mistake waits for the next run."""
    try:
        data = Data.model_validate(overridden(read_table(path), overrides).get("data", {}))
    except (SpecError, ValidationError):
        return []
    return [f"{path.name}: {problem}" for problem in look(data)]


def _on_cluster(data: Data) -> list[str]:
    """Say what is wrong with data that lie on a cluster, as far as that shows from here."""
    if data.path is None or data.path.startswith(("/", "~")):
        return []
    return [
        f"data.path: {data.path} is relative, and images do not travel; give the folder's absolute path on the cluster"
    ]
