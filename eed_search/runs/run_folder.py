"""A run's folder: who gets a name, and what is said to whom it is refused."""

from __future__ import annotations

import itertools
import re
import shlex
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from eed_search.core.errors import RunError
from eed_search.runs.home import SPACE_FILE
from eed_search.runs.home_lock import in_use
from eed_search.runs.ledger import FILE_NAME, read_run
from eed_search.runs.ledger_file import is_lost
from eed_search.runs.replicas import is_on_storage
from eed_search.runs.run_lock import check_locks, driver_of, run_state
from eed_search.storage.store import write_atomic
from eed_search.system.modes import make_folder, make_new_folder

if TYPE_CHECKING:
    from eed_search.config.spec import Spec

_BUNDLE = "manifest.json"  # beside the search-space file of an exported point
_RESERVED = frozenset({"store", "mlartifacts", "mlflow.db"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(home: Path, name: str | None) -> None:
    """Refuse a name early, before Ray is started."""
    if name is None:
        return
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise RunError(
            f"--name {name}: is not allowed; take up to 64 letters, digits, . _ - (not {', '.join(sorted(_RESERVED))})"
        )
    if (home / name).exists():
        raise _taken(home, name)


def only_begun(folder: Path) -> bool:
    """Whether a folder is that of a search whose driver was killed before it had a ledger; `resume` takes it up."""
    has = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    return SPACE_FILE in has and not has & {FILE_NAME, _BUNDLE} and not is_lost(folder / FILE_NAME)


def _taken(home: Path, name: str) -> RunError:
    """Say what there is under a name, and what can be done about it."""
    state, folder = "no search", home / name
    if (folder / FILE_NAME).exists() or is_lost(folder / FILE_NAME):
        state = "damaged"
    if only_begun(folder):
        state = "running" if driver_of(folder) is not None else "killed at its start"
    elif folder.is_dir() and not any(folder.iterdir()):
        state = "empty"
    with suppress(RunError):
        state = run_state(folder, read_run(folder))
    advice = {
        "no search": "",
        "empty": f"if no launch has just begun there, remove it with `rmdir {shlex.quote(str(folder))}`, or ",
        "damaged": f"take back what is sound with `eed-search recover {name}`, or ",
        "running": f"watch it with `eed-search status {name} --watch`, or ",
        "finished": f"take it to N trials in all with `eed-search resume {name} --trials N`, or ",
    }.get(state, f"resume it with `eed-search resume {name}`, or ")
    return RunError(
        f"--name {name}: {home / name} exists already ({state}); {advice}choose another --name. Nothing was changed"
    )


def claim(home: Path, spec: Spec, name: str | None) -> Path:
    """Make a run's folder with its search-space file; of two that want the same name, one gets it.

    Args:
        home: Where the runs lie; made if absent.
        spec: The search.
        name: The folder's name; by default the spec's name with the first free number.

    Returns:
        The folder.

    Raises:
        RunError: If the name is taken, or `home` cannot be written to.
        StoreError: If there are no file locks there.
    """
    names = [name] if name is not None else (f"{spec.name}-{i}" for i in itertools.count(1))
    with ExitStack() as stack:
        try:
            make_folder(home)
            check_locks(home)
            stack.enter_context(in_use(home))
            for one in names:
                if is_on_storage(spec, one):
                    if name is None:
                        continue
                    raise RunError(
                        f"--name {name}: {spec.storage.url} holds a run of that name; go on with it by `eed-search resume"
                        f" {name} --storage {spec.storage.url}`, or choose another --name. Nothing was changed"
                    )
                with suppress(FileExistsError):
                    make_new_folder(home / one)
                    break
            else:
                raise _taken(home, str(name))
        except OSError as error:
            raise RunError(f"{home}: cannot be written ({error.strerror}); choose another --home") from error
        from eed_search.config.loader import to_text  # here: a report needs none of the file's checks

        write_atomic(home / one / SPACE_FILE, to_text(spec).encode("utf-8", "backslashreplace"), private=True)
        return home / one


def with_absolute_data(spec: Spec) -> Spec:
    """Resolve the data's folder: workers and later readers have other working folders."""
    if spec.data.path is None:
        return spec
    path = str(Path(spec.data.path).expanduser().resolve())
    return spec.model_copy(update={"data": spec.data.model_copy(update={"path": path})})
