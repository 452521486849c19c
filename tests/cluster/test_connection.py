"""The first word with a dashboard: each thing that can be wrong gives one error that names the next command."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from eed_search.cluster.cluster_file import read
from eed_search.cluster.connection import connect, dashboard_port, find_token
from eed_search.cluster.where import Place
from eed_search.core.errors import RunError

OURS = metadata.version("ray")


@contextmanager
def answering(code: int, body: str, token: str = "") -> Iterator[Place]:
    """Answer every request so, as long as the block lasts; with a token, only to those that bring it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = not token or self.headers.get("Authorization") == f"Bearer {token}"
            self.send_response(code if allowed else 403)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Place("submit", "", f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    return tmp_path


def test_a_cluster_of_the_same_version_is_reached() -> None:
    """Its version is known."""
    with answering(200, json.dumps({"ray_version": OURS})) as place, connect(place) as connection:
        assert (connection.url, connection.ray_version) == (place.address, OURS)


def test_the_token_is_brought(home: Path) -> None:
    """From the file where Ray keeps it."""
    (home / ".ray" / "auth_token").write_text("secret\n")
    with answering(200, json.dumps({"ray_version": OURS}), token="secret") as place, connect(place) as connection:
        assert connection.token.source == str(home / ".ray" / "auth_token")
        assert "secret" not in repr(connection)


def test_a_wrong_token_is_named(home: Path) -> None:
    """With where it came from, and how the right one is given."""
    (home / ".ray" / "auth_token").write_text("other")
    with (
        answering(200, "", token="secret") as place,
        pytest.raises(RunError, match=r"the token of .*auth_token is not the cluster's.*RAY_AUTH_TOKEN_PATH=FILE"),
        connect(place),
    ):
        pass


def test_a_missing_token_is_named() -> None:
    """With the place that was looked at."""
    with (
        answering(200, "", token="secret") as place,
        pytest.raises(RunError, match=r"it wants a token, and there is no .*auth_token"),
        connect(place),
    ):
        pass


def test_another_version_of_ray_is_refused() -> None:
    """With both versions and the command that makes them one."""
    with (
        answering(200, json.dumps({"ray_version": "2.9.0"})) as place,
        pytest.raises(
            RunError, match=r"has Ray 2\.9\.0, this machine Ray .*pip install 'ray\[default,tune\]==2\.9\.0'"
        ),
        connect(place),
    ):
        pass


@pytest.mark.parametrize(("code", "body"), [(200, "hello"), (200, "[1]"), (404, "")])
def test_something_else_that_answers_is_not_taken_for_ray(code: int, body: str) -> None:
    """A web server is no cluster."""
    with answering(code, body) as place, pytest.raises(RunError, match="not as Ray's dashboard does"), connect(place):
        pass


def test_nobody_there_names_the_command_that_starts_a_cluster() -> None:
    """And the one that searches without."""
    with answering(200, "") as place:
        pass
    with pytest.raises(RunError, match=r"no cluster answers there .*`ray up FILE`.*`--local`"), connect(place):
        pass


def test_the_files_token_goes_before_this_users(home: Path) -> None:
    """It is what the cluster's nodes got."""
    (home / ".ray" / "auth_token").write_text("mine")
    (home / "given").write_text("theirs")
    (home / "c.yaml").write_text(
        "cluster_name: c\nprovider: {type: local, head_ip: 192.0.2.1}\nauth: {ssh_user: me}\n"
        f'file_mounts: {{"~/.ray/auth_token": {home}/given}}\n'
    )
    file = read(home / "c.yaml")
    assert find_token(file, {}).value == "theirs"
    assert find_token(file, {"RAY_AUTH_TOKEN": "said"}).value == "said"


def test_a_file_that_holds_no_token_is_named(home: Path) -> None:
    """Before its words end up in a request."""
    (home / "text").write_text("this is\nno token")
    with pytest.raises(RunError, match="holds no token but several words"):
        find_token(None, {"RAY_AUTH_TOKEN_PATH": str(home / "text")})


def test_the_dashboards_port_is_the_files(home: Path) -> None:
    """Ray's own where the file says nothing."""
    text = "cluster_name: c\nprovider: {type: local, head_ip: 192.0.2.1}\nauth: {ssh_user: me}\n"
    (home / "c.yaml").write_text(text)
    (home / "d.yaml").write_text(f"{text}head_start_ray_commands: [ray stop, ray start --head --dashboard-port=9000]\n")
    assert (dashboard_port(read(home / "c.yaml")), dashboard_port(read(home / "d.yaml"))) == (8265, 9000)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n", b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", b""]
)
def test_a_port_that_speaks_something_else_is_one_clear_error(answer: bytes) -> None:
    """SSH, gRPC, or who hangs up; the message says which option named it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        place = Place("submit", "", f"http://127.0.0.1:{server.getsockname()[1]}", source="--address")
        with pytest.raises(RunError, match=rf"^--address {place.address}: (answers, but not|no cluster answers)"):
            connect(place).__enter__()
        thread.join()
