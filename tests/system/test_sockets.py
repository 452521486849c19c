"""Sockets that processes listen on, as the kernel tells it."""

from __future__ import annotations

import os
import socket

import pytest

from eed_search.system.sockets import Listening, _address, listening


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_socket_is_found_with_its_address(family: socket.AddressFamily, address: str) -> None:
    """As long as it listens, among those of its process alone."""
    with socket.socket(family) as one:
        try:
            one.bind((address, 0))
        except OSError:
            pytest.skip(f"this machine has no {address}")
        port = one.getsockname()[1]
        assert port not in [found.port for found in listening([os.getpid()])]
        one.listen()
        (found,) = [found for found in listening([os.getpid()]) if found.port == port]
        assert (found.address, found.pid, found.on_loopback) == (address, os.getpid(), True)
        assert port not in [found.port for found in listening([os.getppid()])]


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("00000000", "0.0.0.0", False),
        ("0100007F", "127.0.0.1", True),
        ("0200007F", "127.0.0.2", True),
        ("0101A8C0", "192.168.1.1", False),
        ("00000000000000000000000000000000", "::", False),
        ("00000000000000000000000001000000", "::1", True),
        ("0000000000000000FFFF00000100007F", "127.0.0.1", True),
        ("0000000000000000FFFF000000000000", "0.0.0.0", False),
    ],
)
def test_the_kernels_addresses_are_read(text: str, address: str, loopback: bool) -> None:
    """As it writes them on this kind of processor."""
    assert _address(text) == address
    assert Listening(address, 1, 1, "x").on_loopback == loopback
