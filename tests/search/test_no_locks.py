"""A home on a file system without locks: one clear error, before anything is made."""

from __future__ import annotations

import errno
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.calling import ROOT, environment
from tests.runs.ledgers import write_ledger
from tests.search.no_locks import FLOCK
from tests.tracking.factories import make_view
from tests.waiting import HANGS_S

RUN = "from eed_search.cli import main; import sys; sys.argv[0] = 'eed-search'; main()"
CLAIM = """
import sys
from pathlib import Path
from eed_search.config.spec import Spec, Threat
from eed_search.runs.run_folder import claim
claim(Path(sys.argv[1]), Spec(name="s", threat=Threat(eps=0.1)), "s")
"""


def without_locks(number: int, *words: object) -> subprocess.CompletedProcess[str]:
    """Run Python where the kernel refuses file locks."""
    command = [sys.executable, "-m", "tests.search.no_locks", str(number), *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANGS_S, check=False
    )


pytestmark = pytest.mark.skipif(
    platform.machine() not in FLOCK or without_locks(errno.ENOLCK, "-c", "").returncode != 0,
    reason="the kernel lets no process refuse itself file locks",
)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_new_search_is_refused_before_its_folder_is_made(tmp_path: Path, number: int) -> None:
    """The home says why, and nothing is left in it."""
    home = tmp_path / "home"
    done = without_locks(number, "-c", CLAIM, home)
    assert done.returncode != 0
    assert f"{home}: its file system has no file locks (" in done.stderr
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_search_that_is_there_is_left_as_it_is(tmp_path: Path, number: int) -> None:
    """`cancel` would write into it; one line, no traceback."""
    folder = write_ledger(tmp_path / "home" / "s", make_view(3))
    before = (folder / "ledger.sqlite").read_bytes()
    done = without_locks(number, "-c", RUN, "recover", "s", "--home", tmp_path / "home")
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    assert "its file system has no file locks (" in done.stderr
    assert (folder / "ledger.sqlite").read_bytes() == before
