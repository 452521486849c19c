"""A local search's Ray, looked at from outside: by another user of the machine, and from its network."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from eed_search.search import Silent, run
from eed_search.search.execution.ray_session import _LONGEST_ROOT, _LONGEST_SOCKET, ray_log
from eed_search.system import private
from eed_search.system.private import holders, owner_of
from eed_search.system.processes import process
from eed_search.system.sockets import Listening, listening
from tests.others import UID, as_other, can_be_changed, needs_root, started_as_other
from tests.search import stub_pipeline
from tests.search.test_driver import spec_of
from tests.waiting import until

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SESSION = """
import json, os, sys
if sys.argv[1] == "imported":
    import ray, ray._raylet
    assert ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.DISABLED
before = dict(os.environ)
from eed_search.search.execution.ray_session import local_ray
with local_ray() as session:
    import ray
    ray.get(ray.remote(num_cpus=0)(lambda: 0).remote())
    print(json.dumps([str(session.scratch.parent), ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]]), flush=True)
    sys.stdin.read()
after = dict(os.environ)
print(json.dumps({name: after.get(name) for name in before if after.get(name) != before[name]}), flush=True)
"""

CLIENT = """
import os, sys
import ray, ray._raylet
if os.getuid() == 0:
    os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
try:
    ray._raylet.GcsClient(address=sys.argv[1]).internal_kv_put(b"a", b"b", True)
    print("let in")
except Exception as error:
    print(f"kept out: {error}")
"""


@dataclass
class There:
    """A session that runs in another process."""

    folder: Path
    address: str
    token: str
    pid: int

    @property
    def pids(self) -> list[int]:
        return [self.pid, *holders(self.folder)]

    @property
    def ears(self) -> list[Listening]:
        return listening(self.pids)


@pytest.fixture
def tmp_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like `/tmp`, in `/tmp`, with a short name."""
    with tempfile.TemporaryDirectory(prefix="e", dir="/tmp") as name:
        os.chmod(name, 0o1777)  # noqa: S103
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


@pytest.fixture(scope="module", params=["imported", "fresh"])
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    """A session whose environment would open it: Ray was imported before, or not."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text("known")
    opens = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_AUTH_TOKEN": "known",
        "RAY_AUTH_TOKEN_PATH": str(file),
        "RAY_ADDRESS": "127.0.0.1:1",
        "RAY_TMPDIR": "/tmp/nowhere",
    }
    run_by = subprocess.Popen(
        [sys.executable, "-c", SESSION, request.param],
        env=os.environ | opens,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run_by.stdout is not None
    folder, address, token = json.loads(run_by.stdout.readline())
    found = There(Path(folder), address, token, run_by.pid)
    pids = [process(pid) for pid in holders(found.folder)]
    yield found
    changed, _ = run_by.communicate("")
    assert json.loads(changed.splitlines()[-1]) == {}, "the environment is as before"
    assert not found.folder.exists()
    assert not [one for one in pids if one.alive()]


def client(there: There, **environment: str) -> str:
    """Ask the session's GCS for something, as another user where this one may become one."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, there.address, str(UID)],
        env=bare | {"HOME": "/nonexistent"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return next((line for line in done.stdout.splitlines() if line.startswith(("let in", "kept out"))), done.stderr)


@pytest.mark.whole
def test_nobody_is_let_in_without_the_token(there: There) -> None:
    """Neither without one nor with one that the environment named before; who has it is let in."""
    assert "kept out" in client(there, RAY_AUTH_MODE="disabled")
    assert "kept out" in client(there, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="known")
    assert client(there, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=there.token) == "let in"


def test_it_listens_on_loopback_only(there: There) -> None:
    """From the machine's other addresses nothing is reached."""
    ears = there.ears
    assert {"raylet", "gcs_server"} <= {one.program for one in ears}
    assert [one for one in ears if not one.on_loopback] == []
    outer = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in outer - {"127.0.0.1"}:
        for one in ears:
            with socket.socket() as caller:
                caller.settimeout(1)
                assert caller.connect_ex((address, one.port)) != 0, one


def test_it_tells_nobody_how_it_does(there: There) -> None:
    """No socket answers `/metrics`."""
    for one in there.ears:
        with pytest.raises((HTTPException, OSError)):  # a refusal is one of the second kind
            urllib.request.urlopen(f"http://{one.address}:{one.port}/metrics", timeout=5)


def test_its_token_is_seen_by_nobody(there: There) -> None:
    """It stands in no command line, and in no file."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert there.token.encode() not in path.read_bytes()
        except OSError:
            continue
    for folder, _, files in os.walk(there.folder):
        for name in files:
            if (path := Path(folder) / name).is_file():
                assert there.token.encode() not in path.read_bytes(), path


@needs_root
def test_its_environment_is_for_its_owner(there: There) -> None:
    """Another user cannot read it."""
    for pid in there.pids:
        assert "Permission denied" in as_other("cat /proc/$1/environ", str(pid))


def test_what_it_keeps_is_out_of_reach(there: There) -> None:
    """Every file and socket that it has open in a folder that all users share."""
    files = set()
    for pid in there.pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            if file.is_symlink() and os.readlink(file).startswith(("/tmp/", "/dev/shm/", "/var/tmp/")):
                files.add(Path(os.readlink(file)))
    files |= set(there.folder.rglob("*"))
    assert len(files) > 10
    assert [found for path in files if (found := can_be_changed(path))] == []


def test_the_paths_of_its_sockets_are_short_enough(there: There) -> None:
    """Ray's longest is what the limit was computed with; a longer number of a process makes it 107 characters."""
    (made,) = there.folder.glob("r/session_*_*/sockets/plasma_store")
    digits = len("4194304") - len(str(there.pid))
    assert len(str(made)) + digits - len(str(there.folder.parent)) == len(_LONGEST_SOCKET)
    assert _LONGEST_ROOT + len(_LONGEST_SOCKET) == 107


ATTACK = """
say() { echo "$@"; }
while [ ! -e $1/stop ]; do
  touch $2/begun 2>/dev/null
  for one in $1/eed-*; do
    [ -d "$one" ] || continue
    ls "$one" >/dev/null 2>&1 && say listed "$one"
    cat "$one/owner.json" 2>/dev/null
    mv "$one" "$1/moved" 2>/dev/null && say moved "$one"
    rm -rf "$one/owner.json" 2>/dev/null
    (echo '{"pid": 4194305, "born": 1}' > "$one/owner.json") 2>/dev/null && say wrote "$one/owner.json"
    for file in error.pkl error.txt trial-00001/error.pkl tune/ray/trial-00001/error.pkl; do
      mkfifo "$one/$file" 2>/dev/null && say planted "$one/$file"
    done
  done
  find $1 -mindepth 1 -user 0 -writable 2>/dev/null | sed 's/^/writable /'
  find $1 -name 'error.*' 2>/dev/null | sed 's/^/found /'
  ls $1 | sed 's/^/seen /' >> $2/seen
done
"""


@pytest.mark.whole
@needs_root
def test_another_user_finds_nothing_to_replace_while_a_search_runs(
    tmp_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He tries all the time, from before its start to its end; one of its workers is lost meanwhile."""
    monkeypatch.setattr(private, "SHARED_ROOTS", (str(tmp_root),))
    monkeypatch.setenv("EED_STUB_FAULTS", json.dumps({1: "exit"}))
    notes = tmp_root / "his"
    notes.mkdir()
    os.chown(notes, UID, UID)
    attack = started_as_other(ATTACK, tmp_root, notes)
    until((notes / "begun").exists)
    given: Any = {"pipeline": stub_pipeline, "listener": Silent()}
    view = run(spec_of(4), home=tmp_path, name=None, **given)
    (tmp_root / "stop").touch()
    said, _ = attack.communicate()
    assert (view.state, view.trials[1].reason) == ("finished", "infrastructure")
    assert "seen eed-" in (notes / "seen").read_text(), "he was there"
    assert said == ""
    assert [path.name for path in tmp_root.glob("eed-*") if owner_of(path)] == []


def test_a_log_that_finds_no_room_is_nobodys_fault(capfd: pytest.CaptureFixture[str]) -> None:
    """What Ray's driver side logs is lost on a full disk, and neither printed nor raised."""
    with ray_log(Path("/dev/full")):
        for _ in range(3):
            logging.getLogger("ray").warning("x" * 10_000)
    assert capfd.readouterr() == ("", "")
