"""One clear message per error on stderr, and the exit code that belongs to it.

Exit codes: 0 done, 1 unexpected error, 2 wrong use of an option, 3 to 9 as in `core/errors.py`,
130 ended by Ctrl-C or by a request to stop, 143 by SIGTERM, 129 by SIGHUP (a closed terminal).
"""

from __future__ import annotations

import errno
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from eed_search.core.errors import EedSearchError, SpecError
from eed_search.core.texts import visible

INTERRUPTED = 130


class GuardedGroup(TyperGroup):
    """The command group that turns every error into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with `--debug` show where an error came from."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _show_trace_if_debug(ctx)
            print("Stopped by Ctrl-C.", file=sys.stderr)
            code = INTERRUPTED
        except EedSearchError as error:
            _show_trace_if_debug(ctx)
            print(visible(_message(error)), file=sys.stderr)
            code = error.exit_code
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # `eed-search report | head`: click ends quietly
            _show_trace_if_debug(ctx)
            where = f"{error.filename}: " if error.filename else ""
            said = f"error: {where}{error.strerror or error}; check the path, its permissions and the disk"
            print(visible(said), file=sys.stderr)
            code = 1
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")):
                raise  # usage errors and exits
            _show_trace_if_debug(ctx)
            hint = "" if debug_asked(ctx) else "; --debug shows where"
            print(visible(f"error: unexpected {type(error).__name__}: {error}{hint}"), file=sys.stderr)
            code = 1
        raise typer.Exit(code)


def debug_asked(ctx: typer.Context) -> bool:
    """Say whether `--debug` stands on the command line."""
    return bool(ctx.find_root().meta.get("debug"))


def remember_debug(ctx: typer.Context, value: bool) -> bool:
    """Note `--debug` of any command where the guard finds it."""
    if value:
        ctx.find_root().meta["debug"] = True
    return value


def _show_trace_if_debug(ctx: typer.Context) -> None:
    if debug_asked(ctx):
        import traceback

        traceback.print_exc()


def _message(error: EedSearchError) -> str:
    if isinstance(error, SpecError):
        num = len(error.problems)
        return "\n".join([*error.problems, f"error: {num} mistake{'' if num == 1 else 's'}; nothing was started"])
    return f"error: {error}"
