"""A server in the middle that lets some calls arrive late: after whoever made them has given up."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Late:
    """Passes every request on; while `holding`, those that make a run are kept back and not answered.

    Args:
        upstream: The server's address.

    Attributes:
        url: Where it listens.
        holding: Whether it keeps back.
        held: What it keeps back: method, path, headers and body of each request.
    """

    def __init__(self, upstream: str) -> None:
        self.holding = False
        self.held: list[tuple[str, str, dict[str, str], bytes]] = []
        self._upstream = urlsplit(upstream).netloc
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def let_go(self) -> None:
        """Let all arrive that was kept back."""
        held, self.held = self.held, []
        for request in held:
            self._forward(*request)

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        there = http.client.HTTPConnection(self._upstream, timeout=600)
        try:
            there.request(method, path, body, headers)
            answer = there.getresponse()
            return answer.status, answer.getheader("Content-Type") or "", answer.read()
        finally:
            there.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        late = self

        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {"Content-Type": self.headers.get("Content-Type") or "", "Host": late._upstream}
                if late.holding and self.path.endswith("runs/create"):
                    late.held.append((self.command, self.path, headers, body))
                    late._over.wait()
                    return
                status, kind, content = late._forward(self.command, self.path, headers, body)
                with suppress(OSError):  # whoever asked has given up
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def late(upstream: str) -> Iterator[Late]:
    """Stand before a server for as long as the block lasts."""
    made = Late(upstream)
    try:
        yield made
    finally:
        made.close()
