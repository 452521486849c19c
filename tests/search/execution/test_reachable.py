"""A Ray that is not there, or is something else, is told within seconds; with real sockets and a real Ray."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from eed_search.search.execution.reachable import host_and_port, problem_at
from tests.cli.calling import python
from tests.cluster import one_node as node

# A service that speaks gRPC and is not Ray's.
OTHER_GRPC = """
import sys, grpc
from concurrent import futures
server = grpc.server(futures.ThreadPoolExecutor(1))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
from eed_search.search.execution.reachable import check_ray
try:
    check_ray(f"127.0.0.2:{port}" if len(sys.argv) > 1 else f"127.0.0.1:{port}", "--address")
except Exception as error:
    print(type(error).__name__, error)
server.stop(0)
"""
CHECK = "import sys; from eed_search.search.execution.reachable import check_ray; check_ray(*sys.argv[1:])"
LAUNCH = "from eed_search.cli import main; main()"


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """A port that takes connections, and answers each with the same bytes; none says nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    with suppress(OSError):  # who asked may have heard enough
                        connection.recv(1000)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield "{}:{}".format(*server.getsockname())
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def free() -> str:
    """An address on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "{}:{}".format(*server.getsockname())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("[::1]:6379", ("::1", 6379)),
        ("head.example:1", ("head.example", 1)),
        ("h:0", None),
        ("h:65536", None),
        ("h:99999", None),
        ("h:", None),
        (":6379", None),
        ("h", None),
        ("a b:1", None),
        ("h:6379/x", None),
        ("u@h:6379", None),
        ("h:١", None),
        ("h:1\n", None),
    ],
)
def test_what_is_an_address(text: str, parts: tuple[str, int] | None) -> None:
    """HOST:PORT with a port that there can be."""
    assert host_and_port(text) == parts


def test_nobody_there() -> None:
    """Refused at once."""
    assert problem_at(free()).startswith("nobody answers there (")


def test_who_says_nothing_is_given_up() -> None:
    """After the time that was given, not after Ray's own minutes."""
    with listening(None) as address:
        assert problem_at(address, patience_s=0.5) == "nobody answers there within 0.5 s"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"", b"\x00", b"x" * 9000])
def test_something_else_is_told_from_ray(answer: bytes) -> None:
    """A web server, a shell, who hangs up."""
    with listening(answer) as address:
        problem = problem_at(address)
    assert problem.startswith(("something answers there, but not as Ray does", "nobody answers there ("))


@pytest.mark.parametrize("source", ["RAY_ADDRESS", "--address"])
@pytest.mark.parametrize("command", ["launch", "resume"])
def test_a_search_says_what_is_wrong_and_makes_nothing(source: str, command: str, tmp_path: os.PathLike[str]) -> None:
    """Address, where it comes from, what to do; exit code 7."""
    address = free()
    option, variable = ((), {source: address}) if source == "RAY_ADDRESS" else (("--address", address), {})
    if command == "resume":
        option = (*option, "x")
    done = python(LAUNCH, command, "--home", f"{tmp_path}/home", *option, cwd=tmp_path, **variable)  # type: ignore[arg-type]
    assert done.returncode == 7
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {source} {address}: nobody answers there (")
    assert ("unset RAY_ADDRESS" if variable else "leave --address out") in line
    assert "`--local`" in line
    assert not os.listdir(tmp_path)


def test_another_service_is_no_ray() -> None:
    """Although it speaks gRPC as well."""
    done = python(OTHER_GRPC)
    assert re.match(r"RunError --address 127\.0\.0\.1:\d+: (something|nobody) answers there", done.stdout), done


def test_auto_without_any_ray_is_an_error(tmp_path: os.PathLike[str]) -> None:
    """Ray finds none: it sees no process of another one here, and its note of the last one is gone."""
    lonely = "import functools, ray._private.services as s; s.find_gcs_addresses = functools.cache(set); s.find_bootstrap_address = lambda folder: None\n"
    done = python(lonely + CHECK, "auto", "--address")
    assert "RunError: --address auto: no Ray runs on this machine (" in done.stderr


def test_a_note_of_a_ray_that_has_ended_is_an_error() -> None:
    """Ray would try it for minutes."""
    address = free()
    stale = f"import functools, ray._private.services as s; s.find_gcs_addresses = functools.cache(set); s.find_bootstrap_address = lambda folder: '{address}'\n"
    done = python(stale + CHECK, "auto", "--address")
    port = address.rpartition(":")[2]  # Ray puts this machine's outer address for 127.0.0.1
    assert re.search(rf"--address auto \([\d.]+:{port}\): nobody answers there \(", done.stderr)


@pytest.mark.whole
def test_a_ray_is_found_and_its_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that runs, with the right token, with a wrong one and with none."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)  # a search of another test leaves its own to this process
    taken: list[int] = []
    ports = node._free_ports
    monkeypatch.setattr(node, "_free_ports", lambda number: taken.extend(ports(number)) or taken)
    with node.one_node(num_cpus=1) as there:
        address = f"127.0.0.2:{taken[0]}"
        closed = {"RAY_AUTH_MODE": "token", "HOME": str(there.folder)}
        assert python(CHECK, address, "--address", **closed, **there.environment()).returncode == 0
        for wrong in ({"RAY_AUTH_TOKEN": "other"}, {}):
            done = python(CHECK, address, "--address", **closed, **wrong)
            assert f"--address {address}: wants another token than this machine's; " in done.stderr
