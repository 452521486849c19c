"""`eed-search ui` where MLflow's server runs already: it starts nothing, and on a cluster lasts as long as its tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from eed_search.cli import ui
from eed_search.cluster.where import WhereAsked
from eed_search.tracking.ui import Ui

URL = "http://127.0.0.1:5000"


@pytest.fixture(autouse=True)
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A search whose home has a server."""

    @contextmanager
    def serve(home: Path, name: str | None, port: int) -> Iterator[Ui]:
        yield Ui(URL, None)

    monkeypatch.setattr("eed_search.tracking.ui.serve", serve)
    monkeypatch.setattr(ui, "find_run", lambda home, run, *, or_prefix: tmp_path / "run")
    monkeypatch.delenv("EED_SEARCH_JOB", raising=False)


def test_here_it_says_so_and_ends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The address, and that nothing was started."""
    ui.ui(None, port=0, home=tmp_path, asked=WhereAsked(local=True))
    assert capsys.readouterr().out.splitlines()[1:] == [f"MLflow    {URL}", "It runs already; nothing was started."]


def test_as_a_job_it_lasts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the tunnel to it would close at once."""
    monkeypatch.setenv("EED_SEARCH_JOB", "1")
    job = Thread(
        target=ui.ui, args=(None,), kwargs={"port": 0, "home": tmp_path, "asked": WhereAsked(local=True)}, daemon=True
    )
    job.start()
    job.join(0.5)
    assert job.is_alive()
