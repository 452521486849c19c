"""What a home holds, and what of it no search needs any more.

Needed is every artifact whose key any ledger, bundle, benchmark or attack of the home names; what those were made
from; and what was measured on them. A search that is not finished needs all that was made from its dense base, and one
without a base yet needs the whole store, as does one whose ledger cannot be read: nobody knows what it names.
What is not known here is left alone, and so is every link.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from eed_search.core.errors import RunError
from eed_search.runs.home_lock import LOCK_NAME, alone
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, read_run
from eed_search.runs.ledger_file import is_lost
from eed_search.runs.run_folder import only_begun
from eed_search.runs.run_lock import locked

STORE, ARTIFACTS, ATTACKS, UNFINISHED = "store", "mlartifacts", "attacks", "unfinished"
_BENCHMARK, _BUNDLE = "benchmark.yaml", "manifest.json"
_OURS = re.compile(r"mlflow\.db(-wal|-shm|-journal)?|mlflow-server\.(json|log)|\.mlflow-server\.json\.lock")
_KEY = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_STAGE = re.compile(r"[a-z_]+\.\d+")
_ALTERED = re.compile(r"([0-9a-f]{32})\.altered-\d+")
_HALF_MADE = re.compile(r"\.([0-9a-f]{32})\..{8}")  # a folder in which an artifact is written, or freed
_RAY = re.compile(r"ray(-\d+)?")
_TEMPORARY = re.compile(
    r"\.(ledger\.sqlite\.(new|recovered)|ledger\.sqlite\.good-1\.new)(-wal|-shm|-journal)?"
    r"|\.(search_space\.yaml|driver\.json|request\.json|frontier\.(html|csv|json))\..{8}"
)
_TEMPORARY_IN_HOME = re.compile(
    r"\.mlflow-for-.+\.db(-wal|-shm|-journal)?|\.eed-doctor-.{8}|\.mlflow-server\.json\.new"
)
_MADE = frozenset({"base", "control", "twin", "scores", "member", "team"})  # whoever needs one names it
_ENDED = frozenset({"finished", "cancelled"})


@dataclass(frozen=True)
class Free:
    """Something that nobody needs.

    Attributes:
        path: A file or a folder.
        size: Its bytes.
        why: What it is, as one of a kind.
        key: Key of the artifact that it is, or is of; empty for what belongs to no stage.
    """

    path: Path
    size: int
    why: str
    key: str = ""


@dataclass(frozen=True)
class Run:
    """What a search takes.

    Attributes:
        name: Its folder's name.
        state: As its ledger tells; `unreadable` or `begun` where that tells nothing.
        sizes: Bytes by part: ledger, report, MLflow, Ray, other.
    """

    name: str
    state: str
    sizes: dict[str, int]


@dataclass
class Holdings:
    """What a home holds.

    Attributes:
        runs: Its searches.
        store: Artifacts and bytes by stage.
        others: Bytes by name of what else is ours: MLflow, benchmarks, bundles, attacks.
        unknown: Names of what is not known here.
        blocked: Why the store is left as it is; empty where it is not.
        free: What nobody needs.
    """

    runs: list[Run] = field(default_factory=list)
    store: dict[str, tuple[int, int]] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    free: list[Free] = field(default_factory=list)


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Hold a home and every search in it, so that none runs and none begins.

    Raises:
        RunError: If one runs.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(home))
        for folder in _folders(home):
            if _is_run(folder):
                stack.enter_context(locked(folder))  # a driver of an earlier version knows no other lock
        yield


def survey(home: Path) -> Holdings:
    """Go through a home and say what it holds. Whoever calls holds it.

    Args:
        home: The folder that holds every search.
    """
    found, named, whole_bases = Holdings(), set[str](), set[str]()
    for path in sorted(home.iterdir()):
        if path.is_symlink():
            found.unknown.append(f"{path.name} (a link)")
        elif path.is_dir() and _is_run(path):
            _survey_run(path, found, named, whole_bases)
        elif path.is_dir() and ((path / _BENCHMARK).is_file() or (path / _BUNDLE).is_file() or path.name == ATTACKS):
            found.others[path.name] = _size(path)
            named |= _keys_below(path)
        elif path.name in (STORE, ARTIFACTS) or _OURS.fullmatch(path.name):
            found.others[path.name] = _size(path)
        elif _TEMPORARY_IN_HOME.fullmatch(path.name):
            found.free.append(Free(path, _size(path), "left by a process that was killed"))
        elif path.name != LOCK_NAME:
            found.unknown.append(path.name)
    store = home / STORE
    if store.is_dir() and not store.is_symlink():
        _survey_store(store, found, named, whole_bases)
    return found


def release(found: Holdings) -> tuple[int, list[str]]:
    """Free what nobody needs. Whoever calls holds the home since `look`.

    Args:
        found: What `look` gave.

    Returns:
        Bytes that were freed, and what could not be.
    """
    freed, failed = 0, []
    for one in found.free:
        try:
            if _remove(one):
                freed += one.size
            else:
                failed.append(f"{one.path}: is in use")
        except OSError as error:
            failed.append(f"{one.path}: {error.strerror}")
    return freed, failed


def _remove(one: Free) -> bool:
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        if one.key:  # an attack or a benchmark of an earlier version may be making it
            lock = FileLock(str(one.path.parent / f"{one.key}.lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            stack.callback(lock.release)
        if one.path.is_symlink() or not one.path.is_dir():
            one.path.unlink(missing_ok=True)
            return True
        gone = one.path
        if one.key and one.path.name == one.key:  # a reader finds all of it, or nothing
            gone = one.path.with_name(f".{one.key}.cleaned0")
            one.path.rename(gone)
        shutil.rmtree(gone)
    return True


# ---------------------------------------------------------------- searches


def _folders(home: Path) -> list[Path]:
    return [path for path in sorted(home.iterdir()) if path.is_dir() and not path.is_symlink()]


def _is_run(folder: Path) -> bool:
    return (folder / FILE_NAME).is_file() or is_lost(folder / FILE_NAME) or only_begun(folder)


def _survey_run(folder: Path, found: Holdings, named: set[str], whole_bases: set[str]) -> None:
    sizes: defaultdict[str, int] = defaultdict(int)
    for path in sorted(folder.iterdir()):
        size = _size(path)
        if not path.is_symlink() and path.is_dir() and _RAY.fullmatch(path.name):
            found.free.append(Free(path, size, "Ray's notes of a search that does not run"))
        elif not path.is_symlink() and _TEMPORARY.fullmatch(path.name):
            found.free.append(Free(path, size, "left by a process that was killed"))
        sizes[_part(path.name)] += size
    state = "begun"
    if only_begun(folder):
        found.blocked.append(f"{folder.name} has no ledger yet, so nobody knows what it needs")
    else:
        try:
            view = read_run(folder)
            state = "interrupted" if view.state == "running" else view.state
            _name_needed(folder, view, found, named, whole_bases)
            sizes["MLflow"] = _artifacts_of(folder.parent, view)
        except RunError as error:
            state = "unreadable"
            found.blocked.append(f"nobody knows what {folder.name} needs: {error}")
    found.runs.append(Run(folder.name, state, dict(sizes)))


def _name_needed(folder: Path, view: RunView, found: Holdings, named: set[str], whole_bases: set[str]) -> None:
    with Ledger(folder / FILE_NAME) as ledger:
        for event in ledger.events():
            named |= _keys_in(json.dumps(event.data).encode())
    if view.state in _ENDED and not view.unfinished() and not view.without_result():
        return
    if view.base is None:
        found.blocked.append(f"{folder.name} has no dense base yet, so nobody knows what it needs")
    else:
        whole_bases.add(view.base.measurement.artifact.partition("/")[2])


def _part(name: str) -> str:
    if name.startswith(("ledger.", ".ledger.", "study.sqlite")):
        return "ledger"
    return "Ray" if _RAY.fullmatch(name) or name == "ray.log" else "report" if name == "report" else "other"


def _artifacts_of(home: Path, view: RunView) -> int:
    run_id = str(view.tracker.get("parent_run_id", ""))
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        return 0
    root = home / ARTIFACTS
    return sum(_size(path) for path in (root / run_id, *root.glob(f"*/{run_id}")) if path.exists())


# ---------------------------------------------------------------- the store


def _survey_store(store: Path, found: Holdings, named: set[str], whole_bases: set[str]) -> None:
    artifacts: dict[str, Path] = {}
    for stage in _folders(store):
        if stage.name == UNFINISHED:
            _survey_unfinished(stage, found, keep=bool(whole_bases))
            continue
        if not _STAGE.fullmatch(stage.name):
            found.unknown.append(f"{STORE}/{stage.name}")
            continue
        for path in _folders(stage):
            if re.fullmatch(r"[0-9a-f]{32}", path.name):
                artifacts[path.name] = path
                count, size = found.store.get(stage.name, (0, 0))
                found.store[stage.name] = (count + 1, size + _size(path))
            elif altered := _ALTERED.fullmatch(path.name):
                found.free.append(Free(path, _size(path), "altered artifacts that were set aside", altered[1]))
            elif half := _HALF_MADE.fullmatch(path.name):
                found.free.append(Free(path, _size(path), "left by a process that was killed", half[1]))
            else:
                found.unknown.append(f"{STORE}/{stage.name}/{path.name}")
    if found.blocked:
        return
    needed = _needed(artifacts, named, whole_bases)
    for key, path in artifacts.items():
        if key not in needed:
            found.free.append(Free(path, _size(path), f"{path.parent.name}: artifacts that no search names", key))


def _survey_unfinished(folder: Path, found: Holdings, keep: bool) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            found.unknown.append(f"{STORE}/{UNFINISHED}/{path.name}")
        elif not keep and not found.blocked:
            found.free.append(Free(path, _size(path), "halves of stages that no search goes on with"))


def _needed(artifacts: dict[str, Path], named: set[str], whole_bases: set[str]) -> set[str]:
    """Name what is needed, by key: what is named, what that was made from, and what was measured on it."""
    made_from = {key: _made_from(path) & artifacts.keys() for key, path in artifacts.items()}
    needed = (named & artifacts.keys()) | _all_made_from(whole_bases & artifacts.keys(), made_from)
    measured = {
        key
        for key, path in artifacts.items()
        if (stage := path.parent.name.partition(".")[0]) not in _MADE and not stage.startswith("benchmark")
    }
    while True:
        more = {source for key in needed for source in made_from[key]}
        more |= {key for key in measured if made_from[key] <= needed}  # those of nothing that is known: nobody can tell
        if more <= needed:
            return needed
        needed |= more


def _all_made_from(bases: set[str], made_from: dict[str, set[str]]) -> set[str]:
    """Name bases and all that was made from them, however far."""
    found = set(bases)
    while more := {key for key, sources in made_from.items() if sources & found} - found:
        found |= more
    return found


def _made_from(path: Path) -> set[str]:
    """Read the keys that an artifact's settings hold; an artifact that does not say is made from nothing."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        settings = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["settings"]
        return _keys_in(json.dumps(settings).encode()) - {path.name}
    return set()


# ---------------------------------------------------------------- files


def _keys_in(text: bytes) -> set[str]:
    return {key.decode() for key in _KEY.findall(text)}


def _keys_below(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml", ".csv") and path.is_file() and not path.is_symlink():
            with suppress(OSError):
                found |= _keys_in(path.read_bytes())
    return found


def _size(path: Path) -> int:
    """Give the bytes below a path; links count as nothing and are not followed."""
    if path.is_symlink():
        return 0
    if not path.is_dir():
        return path.lstat().st_size
    total = 0
    with suppress(OSError):
        for one in path.iterdir():
            total += _size(one)
    return total
