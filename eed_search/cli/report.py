"""`eed-search report`: a search's result again, for people or as JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eed_search.cli.console import as_text, say
from eed_search.cli.homes import open_run
from eed_search.cli.remote_cluster import flags, remote_cluster
from eed_search.cluster.where import WhereAsked
from eed_search.core.errors import RunError, SpecError, StoreError
from eed_search.runs.ledger import RunView
from eed_search.runs.run_lock import run_state


def report(run: str | None, *, home: Path, as_json: bool, out: Path | None, asked: WhereAsked) -> None:
    """Print a search's result, or write its page, table and JSON into a folder.

    Args:
        run: Its name, or its folder; none takes the latest.
        home: The folder that holds every search.
        as_json: Print JSON instead.
        out: The folder, which must not exist; that of a search on a cluster is brought here.
        asked: Where to look for it.

    Raises:
        RunError: If there is no such search, or nothing of it to write yet.
        SpecError: If both forms are asked for.
        StoreError: If the folder exists, or cannot be written.
    """
    if as_json and out is not None:
        raise SpecError(["--json: prints, and --out writes a folder that holds the JSON too; give one of the two"])
    name = [run] if run else []
    if remote := remote_cluster(asked, home):
        if out is None:
            remote.ask(["report", *name, *flags(as_json=as_json)])
        else:
            remote.fetch(["report", *name], out)
        return
    folder, view = open_run(home, run)
    view = replace(view, state=run_state(folder, view))  # a killed search says no end of itself
    if out is not None:
        _write(view, out)
        return
    from eed_search.tracking.summary import summarise

    summary = summarise(view)
    if as_json:
        from eed_search.tracking.report import as_json as facts

        say(as_text(facts(summary)))
        return
    from eed_search.cli.result import show

    show(summary, folder, home)


def _write(view: RunView, out: Path) -> None:
    if out.exists():
        raise StoreError(f"--out {out}: exists already and is left as it is; give a new folder")
    if view.base is None:
        raise RunError(f"run {view.name}: its dense base is not measured yet; nothing can be drawn before")
    from eed_search.tracking.report import write_report
    from eed_search.tracking.summary import summarise

    written = write_report(summarise(view), out)
    say(f"{view.name}: {view.state}; written {', '.join(str(path) for path in written.values())}")
