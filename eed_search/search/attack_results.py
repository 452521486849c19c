"""Where the result of `eed-search attack` goes: into the run's ledger, report and MLflow, or beside the bundle.

A run's ledger has one writer. While a search runs, its result stays with the finished parts of the attack;
the same command reads it from there and writes it down once the search is over.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from eed_search.config.loader import parse
from eed_search.core.errors import BundleError, EedSearchError, RunError
from eed_search.frontier import attacked
from eed_search.frontier.attacked import Settings
from eed_search.runs.attack_records import READABLE, AttackResult
from eed_search.runs.events import Attacked, Tracked
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView
from eed_search.runs.records import from_json, to_json
from eed_search.runs.replicas import Copies, last_event
from eed_search.runs.run_lock import driving
from eed_search.search.driver import REPORT_FOLDER
from eed_search.search.journal import Journal
from eed_search.search.listener import Silent
from eed_search.storage.shared_storage import Storage
from eed_search.storage.store import write_atomic

BESIDE = ".attacks.json"  # after the bundle's name: a bundle itself never changes
_PATIENCE_S = 20.0
_MOST_BYTES = 1 << 26


def write_into_run(folder: Path, id_: str, result: AttackResult) -> str:
    """Write a result into a run, once; what can be made from the ledger is made again.

    Args:
        folder: The run's.
        id_: The point's id, or the dense base's name.
        result: What the attack found.

    Returns:
        What was done, for a person.

    Raises:
        StoreError: If the disk is full.
    """
    try:
        with driving(folder), Ledger(folder / FILE_NAME, write=True) as ledger:
            return _write(folder, id_, result, Journal(ledger, Silent(), 0, 1))
    except RunError as error:
        return f"not written into the run: {error}. Then give this command again: it reads the finished result"


def _write(folder: Path, id_: str, result: AttackResult, journal: Journal) -> str:
    name = journal.view.name
    if any((one.key, one.badge) == (result.key, result.badge) for one in journal.view.attacks.get(id_, ())):
        return f"stands in run {name} already"
    journal.append(Attacked(id_, to_json(result)))
    done = ["its ledger"]
    if journal.view.base is not None and (folder / REPORT_FOLDER).is_dir():
        from eed_search.tracking.report import write_report
        from eed_search.tracking.summary import summarise

        write_report(summarise(journal.view), folder / REPORT_FOLDER)
        done.append("its report")
    if _tell_mlflow(folder, journal):
        done.append("MLflow")
    missed = ""
    if url := journal.view.spec.get("storage", {}).get("url"):
        missed = _copy(folder, Copies(Storage(url), name))
        done += [] if missed else ["its copy on shared storage"]
    return f"written into run {name}: {', '.join(done)}{missed}"


def _copy(folder: Path, copies: Copies) -> str:
    """Copy the run to shared storage; says what kept it from that, or nothing."""
    try:
        with copies.driving():
            if copies.last_event() > last_event(folder / FILE_NAME):
                return (
                    "; not copied to shared storage, which holds a newer copy: `eed-search fetch` it, then give this"
                    " command again"
                )
            copies.save(folder, report=folder / REPORT_FOLDER)
    except (EedSearchError, sqlite3.Error, OSError) as error:
        return f"; not copied to shared storage: {error}"
    return ""


def _tell_mlflow(folder: Path, journal: Journal) -> bool:
    """Bring MLflow up to date; a run that was cut off gets it from `resume`, and so does one whose MLflow is away."""
    view = journal.view
    if not view.tracker or view.state not in ("finished", "stopped", "failed", "cancelled"):
        return False
    from eed_search.tracking.mlflow_log import MlflowTracker

    spec = parse(view.spec, f"run {view.name}")
    state: Any = view.state
    try:
        journal.open_tracker(MlflowTracker(spec, folder.parent, view.name, view.uid))
    except EedSearchError as error:
        journal.append(Tracked({"complete": False}))
        journal.note(f"MLflow was not told of an attack ({str(error).splitlines()[0]})")
        return False
    report = folder / REPORT_FOLDER
    journal.close_tracker(state, report if report.is_dir() else None, _PATIENCE_S)
    return bool(journal.view.tracker.get("complete"))


# ---------------------------------------------------------------- beside a bundle


def write_beside(bundle: Path, result: AttackResult) -> Path:
    """Keep a result in a file beside the bundle; what was found on another bundle of that name is dropped.

    Args:
        bundle: The folder.
        result: What the attack found.

    Raises:
        BundleError: If nothing can be written there.
    """
    path, kept = beside(bundle), results_beside(bundle)
    if all(one.key != result.key for one in kept):
        kept.append(result)
    table = {"manifest_sha256": _manifest_sha256(bundle), "results": [to_json(one) for one in kept]}
    try:
        write_atomic(path, json.dumps(table, indent=1).encode())
    except (OSError, EedSearchError) as error:
        raise BundleError(f"{path}: cannot be written ({error}); copy the bundle to a folder of yours") from error
    return path


def results_beside(bundle: Path) -> list[AttackResult]:
    """Read what was found on a bundle; none where there is nothing, or it was found on other files."""
    from eed_search.deployment.runtime import RuntimeFault, read_file, read_json

    try:
        path = beside(bundle)
        table = read_json(path, read_file(path, _MOST_BYTES))
        if table["manifest_sha256"] != _manifest_sha256(bundle):
            return []
        return [from_json(AttackResult, one) for one in table["results"] if one["schema_version"] in READABLE]
    except (OSError, ValueError, KeyError, TypeError, RuntimeFault):
        return []


def beside(bundle: Path) -> Path:
    """Name the file."""
    there = bundle.resolve()
    return there.with_name(there.name + BESIDE)


def refuse_second_claim(bundle: Path, wanted: Settings) -> None:
    """Refuse to attack a bundle on the test images again with other settings: they are used once.

    Raises:
        BundleError: If it has had a claim with other settings.
    """
    view = RunView(name=bundle.name, attacks={"the bundle": [r for r in results_beside(bundle) if r.split == "test"]})
    try:
        attacked.refuse_second_claim(view, "the bundle", wanted)
    except RunError as error:
        raise BundleError(str(error).replace(f"run {bundle.name}: the bundle", str(bundle))) from error


def _manifest_sha256(bundle: Path) -> str:
    from eed_search.deployment.runtime import MANIFEST, read_file

    return hashlib.sha256(read_file(bundle / MANIFEST, _MOST_BYTES)).hexdigest()
