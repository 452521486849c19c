"""The command line: the only code that prints. `main` is what the `eed-search` script calls."""

from __future__ import annotations


def main() -> None:
    """Run `eed-search`; ends the process with the command's exit code."""
    from eed_search.cli.app import app
    from eed_search.core.loopback import past_proxies

    past_proxies()
    app(prog_name="eed-search")
