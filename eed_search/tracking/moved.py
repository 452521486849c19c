"""MLflow of a home that was moved or copied: its own database points at the home's own files again.

MLflow writes absolute addresses of files into its database, and has no call to change them. The default experiment,
which is made with the database, tells where the home lay then. Only what lies in that home's artifact folder is
pointed at this one's; the other home, if it is still there, is not touched.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eed_search.core.errors import RunError, StoreError
from eed_search.runs.moved import home_of_database, same_folder
from eed_search.tracking.server import NOTE_NAME, ServerNote, read_note

FOLDER = "mlartifacts"
_BUSY_S = 60.0
_UPDATES = {
    "experiments": "UPDATE experiments SET artifact_location = ?1 || substr(artifact_location, ?2)"
    " WHERE artifact_location = ?3 OR substr(artifact_location, 1, ?2) = ?3 || '/'",
    "runs": "UPDATE runs SET artifact_uri = ?1 || substr(artifact_uri, ?2)"
    " WHERE artifact_uri = ?3 OR substr(artifact_uri, 1, ?2) = ?3 || '/'",
    "logged_models": "UPDATE logged_models SET artifact_location = ?1 || substr(artifact_location, ?2)"
    " WHERE artifact_location = ?3 OR substr(artifact_location, 1, ?2) = ?3 || '/'",
}


def settle(home: Path) -> int:
    """Point a home's own MLflow database at the home's own files, if the home was somewhere else before.

    Args:
        home: Its folder.

    Returns:
        How many addresses were corrected.

    Raises:
        StoreError: If the database cannot be read or written.
    """
    home = home.resolve()
    path, now = home / "mlflow.db", (home / FOLDER).as_uri()
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as database:
            before = _folder_before(database)
            if not before or before == now or same_folder(_to_path(before).parent, home):
                return 0
            database.execute("BEGIN IMMEDIATE")
            there = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            updates = [update for table, update in _UPDATES.items() if table in there]
            changed = sum(database.execute(one, (now, len(before) + 1, before)).rowcount for one in updates)
            database.execute("COMMIT")
            return changed
    except sqlite3.Error as error:
        raise StoreError(
            f"{path}: MLflow's database cannot be used ({error}); make room, or move the file away"
        ) from error


def _folder_before(database: sqlite3.Connection) -> str:
    """Read where the artifacts lay when the database was made; empty where it does not say."""
    found = database.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    place = str(found[0]) if found and found[0] else ""
    return place.removesuffix("/0") if place.startswith("file:///") and place.endswith(f"/{FOLDER}/0") else ""


def _to_path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def own_note(home: Path) -> ServerNote | None:
    """Read the note of the server that serves a home; none if there is none, or it serves the home that this was.

    Raises:
        RunError: If the note is damaged, or the server keeps its files in another home and its runs in a database that
            both would write to.
    """
    note = read_note(home)
    if note is None:
        return None
    home = home.resolve()
    if there := home_of_database(note.database):
        return note if Path(there) == home or same_folder(Path(there), home) else None
    files = Path(note.artifacts)
    if files.name == FOLDER and files.parent != home and not same_folder(files.parent, home):
        raise RunError(
            f"{home / NOTE_NAME}: tells of the server of another home, whose files lie in {files}; this home was copied"
            f" or moved. Start its own: remove that file, then eed-search mlflow-server --background --home {home}"
            f" --database '{note.database}'; without it, MLflow's data lie under the home from now on"
        )
    return note
