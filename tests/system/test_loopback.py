"""Loopback goes past proxies, other hosts go through them; with a real proxy that keeps what it is asked for."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from eed_search.system.loopback import is_loopback, past_proxies, urlopen

VARIABLES = [f(name) for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for f in (str.lower, str.upper)]


class _Server(BaseHTTPRequestHandler):
    """Answers every request, and keeps for which address it came."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, *_: object) -> None:
        pass


def serve() -> Iterator[tuple[str, list[str]]]:
    """A server on loopback, with what it was asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Server,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A proxy, and an environment without any."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what is set is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers proxies: no other test shall find this one's
    yield from serve()


@pytest.fixture
def own() -> Iterator[tuple[str, list[str]]]:
    """A server of ours."""
    yield from serve()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_our_own_servers_are_reached_and_others_by_the_proxy(
    variable: str,
    proxy: tuple[str, list[str]],
    own: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By our own probes and by the library that MLflow and Ray use."""
    monkeypatch.setenv(variable, proxy[0])
    past_proxies()
    with urlopen(f"{own[0]}/health", timeout=60) as answer:
        assert answer.read() == b"here"
    assert requests.get(f"{own[0]}/version", timeout=60).text == "here"
    assert own[1] == ["/health", "/version"]
    assert proxy[1] == []
    assert requests.get("http://example.invalid/x", timeout=60).text == "here"
    assert proxy[1] == ["http://example.invalid/x"]


def test_a_probe_needs_no_list(
    proxy: tuple[str, list[str]], own: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows that the address is one of loopback; another host's goes to the proxy."""
    monkeypatch.setenv("http_proxy", proxy[0])
    with urlopen(own[0], timeout=60) as answer:
        assert answer.read() == b"here"
    with urlopen(urllib.request.Request("http://example.invalid/x"), timeout=60) as answer:
        assert answer.read() == b"here"
    assert proxy[1] == ["http://example.invalid/x"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"no_proxy": "corp.example, .local"}, ["corp.example", ".local"]),
        ({"NO_PROXY": "corp.example"}, ["corp.example"]),
        ({"no_proxy": "localhost", "NO_PROXY": "other"}, ["localhost"]),
        ({"no_proxy": ""}, []),
    ],
)
def test_a_list_that_is_there_is_kept(given: dict[str, str], kept: list[str]) -> None:
    """Whichever of the two spellings holds it: libraries look at one of them only. Once more changes nothing."""
    environment = {"http_proxy": "http://proxy:3128", **given}
    past_proxies(environment)
    once = dict(environment)
    for name in ("no_proxy", "NO_PROXY"):
        hosts = environment[name].split(",")
        assert {"127.0.0.1", "localhost", "::1"} <= set(hosts)
        assert len(hosts) == len(set(hosts))
    assert environment["no_proxy"].split(",")[: len(kept)] == kept
    past_proxies(environment)
    assert environment == once


def test_a_star_stays_alone() -> None:
    """It takes every host past the proxy, but only where it stands alone."""
    environment = {"https_proxy": "http://proxy:3128", "no_proxy": "*"}
    past_proxies(environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == "*"


@pytest.mark.parametrize("environment", [{}, {"no_proxy": "corp.example"}, {"http_proxy": ""}])
def test_without_a_proxy_nothing_is_changed(environment: dict[str, str]) -> None:
    """A list would make libraries overlook the proxies of the system's own settings."""
    before = dict(environment)
    past_proxies(environment)
    assert environment == before


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("http://127.0.0.1:5000/health", True),
        ("http://127.9.9.9", True),
        ("http://localhost:5000", True),
        ("http://[::1]:5000", True),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("http://10.0.0.1", False),
        ("http://[broken", False),
        ("sqlite:////x", False),
    ],
)
def test_which_addresses_are_this_machines_own(url: str, is_own: bool) -> None:
    """By the host, not by how it begins."""
    assert is_loopback(url) is is_own


def test_an_address_that_nobody_answers_is_the_usual_error() -> None:
    """As `urllib.request.urlopen` raises it."""
    with pytest.raises(urllib.error.URLError):
        urlopen("http://127.0.0.1:9", timeout=60)
