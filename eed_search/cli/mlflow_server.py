"""`eed-search mlflow-server`: MLflow for every search of a home, and for many people at once."""

from __future__ import annotations

from eed_search.cli.console import say
from eed_search.core.errors import RunError
from eed_search.tracking.home_server import LOG_NAME, HomeServer, ServerOptions, serve_home, start_for_good


def mlflow_server(wanted: ServerOptions, *, background: bool) -> None:
    """Serve a home's MLflow until Ctrl-C, or start it and leave it running.

    Args:
        wanted: Database, files, port and hosts.
        background: Return when it answers; a server that runs already is left as it is.

    Raises:
        RunError: If a host is a pattern, another server runs, the port is taken, or it does not start.
        StoreError: If the database cannot be used.
    """
    for host in wanted.more_hosts:
        if "*" in host.removesuffix(":*") or not host.strip():
            raise RunError(
                f"--allow-host {host!r}: would let other web pages in; name one host exactly, such as"
                " mlflow.example.org:443"
            )
    say("Starting MLflow, which takes some seconds …")
    if background:
        found = start_for_good(wanted)
        _describe(found, wanted)
        word = "runs in the background" if found.is_new else "ran already"
        say(f"It {word} as process {found.note.pid}; `kill {found.note.pid}` ends it.")
        return
    with serve_home(wanted) as found:
        _describe(found, wanted)
        say("Ctrl-C ends it.")
        try:
            found.wait()
        except KeyboardInterrupt:
            say("MLflow has ended.")


def _describe(found: HomeServer, wanted: ServerOptions) -> None:
    note = found.note
    port = note.url.rpartition(":")[2]
    say(f"MLflow     {note.url}")
    say(f"database   {note.database}")
    say(f"artifacts  {note.artifacts}")
    say(f"log        {wanted.home / LOG_NAME}")
    say(
        f"Searches under {wanted.home} write to it by themselves; others on this machine: --set tracking.uri={note.url}"
    )
    say(f"Reachable from this machine only; from another one: ssh -N -L {port}:127.0.0.1:{port} USER@THIS-MACHINE")
