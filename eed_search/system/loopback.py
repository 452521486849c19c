"""Loopback goes past proxies: what runs on this machine is asked by this machine itself.

Where `http_proxy` is set and `no_proxy` is not, every library hands even 127.0.0.1 to the proxy, which cannot reach it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from urllib.request import Request

# Some libraries take ranges, some only names.
_NAMES = ("localhost", "127.0.0.1", "127.0.0.2", "127.0.0.0/8", "::1", "[::1]")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")


def past_proxies(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add loopback to the hosts that are reached without a proxy, for this process and its children.

    Proxies stay as they are for all other hosts, and so does what is in the list already. Without a proxy in the
    environment nothing is changed: a list alone would hide those that the system has set.

    Args:
        environment: Changed in place.
    """
    proxies = [name for name, value in environment.items() if value and name.lower().endswith("_proxy")]
    if all(name in _EXCEPTIONS for name in proxies):
        return
    given = {name: environment.get(name, "") for name in _EXCEPTIONS}
    for name, other in (_EXCEPTIONS, _EXCEPTIONS[::-1]):
        hosts = [host for part in (given[name] or given[other]).split(",") if (host := part.strip())]
        if "*" not in hosts:
            hosts += [one for one in _NAMES if one not in hosts]
        environment[name] = ",".join(hosts)


def is_loopback(url: str) -> bool:
    """Say whether an address is one of this machine's own, which no other machine reaches."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def urlopen(request: Request | str, timeout: float) -> Any:
    """Open an address as `urllib.request.urlopen` does; loopback without a proxy.

    Args:
        request: The request, or its URL.
        timeout: Seconds for each step of it.

    Raises:
        OSError: As `urllib.request.urlopen`.
    """
    import urllib.request  # here: every command asks for `past_proxies`, few open an address

    url = request if isinstance(request, str) else request.full_url
    if is_loopback(url):
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout)
    return urllib.request.urlopen(request, timeout=timeout)
