"""The command line: the only code that prints. `main` is what the `eed-search` script calls."""

from __future__ import annotations

import sys

_ANSWERS = ("report", "status", "check", "doctor", "verify", "")  # what they print is all that they do


def main() -> None:
    """Run `eed-search`; ends the process with the command's exit code."""
    from eed_search.cli import streams

    streams.guard_streams()
    streams.for_children()
    from eed_search.cli.app import app
    from eed_search.system.loopback import past_proxies

    past_proxies()
    try:
        app(prog_name="eed-search")
    except SystemExit as end:
        if not end.code and (complaint := streams.complaint()):
            words = [word for word in sys.argv[1:] if not word.startswith("-")]
            if "--dry-run" in sys.argv or (words[0] if words else "") in _ANSWERS or {"-h", "--help"} & {*sys.argv}:
                print(f"error: {complaint}; give a file, pipe or terminal that takes it", file=sys.stderr)
                raise SystemExit(1) from None
            print(f"note: {complaint}; what was to be read there is lost, the result is kept", file=sys.stderr)
        raise
