"""User code that a search-space file names under `plugins:`: where it lies, what it is made of, importing it.

An entry is a file (`my_scores.py`, relative to the search-space file) or a module (`my_package.scores`, looked for
beside the file first). Reading a file only resolves the entries; `load` runs their code, in the driver and in every worker.
What a plugin is made of is found by reading, not by running it: its file and what it imports from its own folder.

One that was sent to a cluster lies in `HOME/.plugins/DIGEST` (`sent_plugins`). Before it runs, the digest is made again
from what lies there.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from eed_search.config import names
from eed_search.core.errors import SpecError

IN = "::"  # between a folder and a module that lies in it
KEPT_AS = ".plugins"  # folder of a home, for what was sent
MOST_BYTES = 64 * 2**20  # most bytes of what was sent; a job is smaller
_KEPT = re.compile(rf"(.*/{re.escape(KEPT_AS)}/([0-9a-f]{{32}}))(?:/|{IN})")
_CACHE = "__pycache__"
_loaded: dict[str, str] = {}


def resolve(entry: str, folder: Path) -> str:
    """Find an entry as a file writes it.

    Args:
        entry: A file, a module, or one that was resolved before.
        folder: Folder of the search-space file.

    Returns:
        An absolute file, `FOLDER::module` for a module in a folder, or a module that Python finds by itself.

    Raises:
        ValueError: If there is none; says what to do.
    """
    if IN in entry:
        at, _, module = entry.partition(IN)
        at = str((folder / Path(at).expanduser()).resolve())
        if _find(module, [at]) is None:
            raise ValueError(f"{module} is not in the folder {at}")
        return f"{at}{IN}{module}"
    if entry.endswith(".py") or "/" in entry:
        path = (folder / Path(entry).expanduser()).resolve()
        if not path.is_file():
            raise ValueError(f"{path} is no file; give a Python file relative to the search-space file, or a module")
        return str(path)
    if _find(entry, [str(folder.resolve())]) is not None:
        return f"{folder.resolve()}{IN}{entry}"
    if _find(entry, None) is None:
        raise ValueError(
            f"no module {entry} in {folder.resolve()} nor installed; give a module or a file such as my.py"
        )
    return entry


def entries(plain: dict[str, Any]) -> list[str]:
    """Give the entries of a file's content, those that are text."""
    given = plain.get("plugins", ())
    return [one for one in given if isinstance(one, str)] if isinstance(given, list | tuple) else []


def take_in(plain: dict[str, Any], folder: Path, *, run: bool) -> list[str]:
    """Resolve the plugins of a file's content in place, and import them if asked.

    Args:
        plain: What the YAML holds.
        folder: Folder of the search-space file.
        run: Whether to import them.

    Returns:
        What is wrong with them, one line each.
    """
    problems, found = [], entries(plain)
    for i, entry in enumerate(found):
        try:
            found[i] = resolve(entry, folder)
        except ValueError as error:
            problems.append(f"plugins[{i}]: {error}")
    if found and len(found) == len(plain["plugins"]):
        plain["plugins"] = found
    if run and not problems:
        try:
            load(found)
        except SpecError as error:
            problems += error.problems
    return problems


def folder_of(entry: str) -> Path | None:
    """Give the folder that a resolved entry is imported from; none for a module that is installed."""
    if not _is_module(entry):
        return Path(entry).parent
    at, _, _ = entry.rpartition(IN)
    return Path(at) if at else None


def sources(entry: str) -> list[Path]:
    """List the files that a resolved entry is made of: its own, its packages', and those of its folder that it imports.

    Returns:
        Existing files, in the order in which they are met.
    """
    if not _is_module(entry):
        todo, root = [Path(entry)], Path(entry).parent
    else:
        at, _, module = entry.rpartition(IN)
        first = _find(module, [at] if at else None)
        if first is None:
            return []
        root = Path(at) if at else first.parents[module.count(".") + (first.name == "__init__.py")]
        todo = [first, *(root.joinpath(*module.split(".")[:n], "__init__.py") for n in range(1, module.count(".") + 1))]
    files: list[Path] = []
    while todo:
        path = todo.pop(0)
        if path in files or not path.is_file():
            continue
        files.append(path)
        todo += _imported(path, root)
    return files


def digest(entry: str) -> str:
    """Hash the contents of all files of a resolved entry."""
    sha = hashlib.sha256()
    for path in sources(entry):
        content = path.read_bytes()
        sha.update(f"{path.name}:{len(content)}:".encode() + content)
    return sha.hexdigest()[:32]


def files(entries: Iterable[str]) -> dict[str, str]:
    """Hash every file of some resolved entries, by path: what a resumed search must find unchanged."""
    paths = {path for entry in entries for path in sources(entry)}
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(paths)}


def kept(entry: str) -> tuple[Path, str] | None:
    """Give folder and digest of an entry that was sent; none for another."""
    found = _KEPT.match(entry)
    return (Path(found[1]), found[2]) if found else None


def digest_of(contents: Mapping[str, bytes]) -> str:
    """Hash files by their path below a folder, as the folder of what was sent is called."""
    sha = hashlib.sha256()
    for name, content in sorted(contents.items()):
        sha.update(f"{name}:{len(content)}:".encode() + content)
    return sha.hexdigest()[:32]


def folder_digest(folder: Path) -> str:
    """Hash all files below a folder, but for Python's caches; empty where links or pipes lie there, or more than is ever sent.

    Raises:
        OSError: If it cannot be read.
    """
    contents, left = dict[str, bytes](), MOST_BYTES
    for here, folders, found in os.walk(folder):
        folders[:] = [one for one in folders if one != _CACHE]
        for path in (Path(here, one) for one in (*folders, *found)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                return ""
        for path in (Path(here, one) for one in found):
            left -= path.stat().st_size
            if left < 0:
                return ""
            contents[path.relative_to(folder).as_posix()] = path.read_bytes()
    return digest_of(contents)


def drop_caches(folder: Path) -> None:
    """Remove what Python has compiled below a folder: it is taken by time and size, and no digest holds it."""
    for cache in list(folder.rglob(_CACHE)):
        shutil.rmtree(cache, ignore_errors=True)


def are_loaded(entries: Sequence[str]) -> bool:
    """Whether all entries are imported in this process."""
    return all(entry in _loaded for entry in entries)


def load(entries: Sequence[str]) -> None:
    """Import resolved entries; one that is imported already, and has not changed, is left alone.

    Raises:
        SpecError: With one line for each that cannot be imported, registers nothing, or registers it wrongly.
    """
    problems = []
    for i, entry in enumerate(entries):
        if problem := _load(entry):
            problems.append(f"plugins[{i}]: {problem}")
    if problems:
        raise SpecError(problems)


def _load(entry: str) -> str:
    try:
        now = digest(entry)
    except OSError as error:
        return f"{entry} cannot be read ({error.strerror})"
    if _loaded.get(entry) == now:
        return ""
    if not sources(entry):
        return f"{entry} is gone; put it back, or take it out of plugins"
    if problem := _altered(entry):
        return problem
    again = _loaded.pop(entry, None) is not None
    try:
        with names.importing(entry, now):
            _run(entry, again)
    except SpecError as error:
        return "; ".join(error.problems)
    except SyntaxError as error:
        return f"{error.filename}, line {error.lineno}: is not Python ({error.msg}); correct it"
    except (Exception, SystemExit) as error:  # whatever user code raises
        return f"{_where(error, entry)}: {type(error).__name__}: {error}; it must be importable by itself"
    if not names.by_plugin(entry):
        names.forget(entry)
        return f"{entry} registers nothing; decorate a function, such as @plugins.score('my_score')"
    _loaded[entry] = now
    return ""


def _altered(entry: str) -> str:
    """Say that what lies there is not what was sent; nothing where it is, or none of it was sent."""
    if (found := kept(entry)) is None:
        return ""
    folder, named = found
    try:
        now = folder_digest(folder)
    except OSError as error:
        return f"{folder} cannot be read ({error.strerror})"
    if now == named:
        drop_caches(folder)
        return ""
    return (
        f"{folder} was altered since it was sent (its contents have the digest {now or 'of nothing that is sent'}), so nothing"
        " of it was run; remove that folder and resume with --storage, or launch again from where your code lies"
    )


def _run(entry: str, again: bool) -> None:
    """Run a plugin's code; the new text, where an older one was imported before."""
    at, _, module = entry.rpartition(IN) if _is_module(entry) else (str(Path(entry).parent), "", "")
    if at and at not in sys.path:
        sys.path.insert(0, at)  # for good: functions may import later
    stale = set(sources(entry)) if again else set()
    for name, found in list(sys.modules.items()) if again else ():
        if (file := getattr(found, "__file__", None)) and Path(file) in stale:
            del sys.modules[name]
    importlib.invalidate_caches()
    if module:
        importlib.import_module(module)
        return
    path = Path(entry)
    name = f"eed_search_plugin_{path.stem}_{hashlib.sha256(entry.encode()).hexdigest()[:8]}"
    made = ModuleType(name)
    made.__file__ = entry
    sys.modules[name] = made  # dataclasses and pickles look their module up
    try:
        # compiled here: Python's cache of compiled files goes by time and size, and could be an older text's
        exec(compile(path.read_bytes(), entry, "exec"), made.__dict__)  # noqa: S102  # the user's own code
    except BaseException:
        del sys.modules[name]
        raise


def _where(error: BaseException, entry: str) -> str:
    """Name the plugin's own line that was being run."""
    own = {str(path) for path in sources(entry)}
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    return f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else entry


def _is_module(entry: str) -> bool:
    return IN in entry or not entry.endswith(".py")


def _find(module: str, path: Sequence[str] | None) -> Path | None:
    """Find a module's file without importing anything, its packages included."""
    found = None
    for part in module.split("."):
        # a name without dots is found without an import
        found = importlib.util.find_spec(part) if path is None else PathFinder.find_spec(part, path)
        if found is None:
            return None
        path = list(found.submodule_search_locations or ())
    return Path(found.origin) if found is not None and found.origin else None


def _imported(path: Path, root: Path) -> Iterator[Path]:
    """Find the files below a folder that a file imports, packages' own files included."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply
        return
    for node in ast.walk(tree):
        wanted: list[tuple[Path, str]] = []
        if isinstance(node, ast.Import):
            wanted = [(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if 0 < node.level <= len(path.parents) else root
            base = f"{node.module}." if node.module else ""
            wanted = [(start, f"{base}{alias.name}") for alias in node.names]
        for start, dotted in wanted:
            parts = dotted.split(".")
            for end in range(1, len(parts) + 1):
                below = start.joinpath(*parts[:end])
                yield from (one for one in (below.with_suffix(".py"), below / "__init__.py") if one.is_file())
