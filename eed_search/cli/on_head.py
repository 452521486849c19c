"""What a job runs on a cluster's head: the command itself, after a look whether it can, every line marked.

    python -m eed_search.cli.on_head '{"python": "3.11", …}' launch search_space.yaml --home /shared/runs …

Only the standard library until all that is needed is known to be there.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eed_search.cli.streams import for_children, guard_streams
from eed_search.cluster.marks import DATA, ERR, OUT
from eed_search.system.modes import make_folder

_CANNOT = 7  # the exit code of RunError


class Marked(io.TextIOBase):
    """A stream that puts a mark before each line, so that the follower knows the command's own.

    Args:
        mark: The mark.
        to: Where the lines go.
        swap: What is put in the place of what: paths and options of here by those of the reader.
    """

    def __init__(self, mark: str, to: Any, swap: Mapping[str, str]) -> None:
        self._mark, self._to, self._line, self._swap = mark, to, "", swap

    def write(self, text: str) -> int:
        """Take text in; whole lines go on."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            for there, shown in self._swap.items():
                line = line.replace(there, shown)
            self._to.write(f"{self._mark}{line}\n")
        if lines:
            self._to.flush()
        return len(text)

    def flush(self) -> None:
        """Hold a line that is not complete back: two streams share the log."""

    def finish(self) -> None:
        """Let go of a last line without an end."""
        if self._line:
            self.write("\n")

    def writable(self) -> bool:
        """Always."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What characters may be written: all."""
        return "utf-8"


def problems(client: Mapping[str, Any], home: Path) -> list[str]:
    """Say what keeps a command of this client from running here, one line each with the next command.

    Args:
        client: `python`: its version, two numbers; `requires`: what the package needs, as pip writes it.
        home: Where searches lie on this cluster.
    """
    found = []
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if client["python"] != ours:
        found.append(
            f"Python {ours} on the cluster, {client['python']} where you are: take one of the two for both, such as"
            f" `python{ours} -m venv .venv` there"
        )
    if missing := _missing(client["requires"]):
        found.append(
            f"the cluster lacks {', '.join(missing)}: put `pip install {' '.join(repr(one) for one in missing)}` into"
            " setup_commands of the cluster file, then `ray up FILE`"
        )
    try:
        make_folder(home)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        found.append(
            f"{home}: cannot be written on the cluster's head ({error.strerror}); give a folder that can, shared by all"
            " nodes: `--home /mnt/shared/runs`"
        )
    return found


def _missing(requires: Sequence[str]) -> list[str]:
    from importlib import metadata

    from packaging.requirements import Requirement

    lacking = []
    for text in requires:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            lacking.append(text)
            continue
        if not need.specifier.contains(version, prereleases=True):
            lacking.append(text)
    return lacking


def main() -> None:
    """Run the command with marked output; the process ends with its exit code."""
    guard_streams()
    for_children()
    client = json.loads(sys.argv[1])
    home = Path(os.path.expanduser(client["home"]))
    swap = {os.path.expanduser(there): shown for there, shown in client["swap"].items()}
    swap[f" --home {shlex.quote(str(home))}"] = client["suffix"]
    plain = sys.stdout
    out, err = Marked(OUT, plain, swap), Marked(ERR, plain, swap)
    sys.stdout, sys.stderr = out, err
    try:
        if wrong := problems(client, home):
            for line in wrong:
                print(f"error: {line}", file=sys.stderr)
            raise SystemExit(_CANNOT)
        _keep_plugins(home)
        sys.argv = ["eed-search", *(os.path.expanduser(word) for word in sys.argv[2:]), "--home", str(home)]
        try:
            from eed_search.cli import main as command

            command()
        except SystemExit as end:
            if end.code:
                raise
        if client["sends"]:
            _send(Path(os.path.expanduser(client["sends"])), Marked(DATA, plain, {}))
    finally:
        out.finish()
        err.finish()


def _keep_plugins(home: Path) -> None:
    """Put the user's own code that came with the job where the search-space file says that it lies."""
    from eed_search.config.sent_plugins import keep

    try:
        keep(Path.cwd(), home)
    except OSError as error:
        print(f"error: {home}: plugins cannot be kept there ({error.strerror}); make room on the head", file=sys.stderr)
        raise SystemExit(_CANNOT) from error


def _send(folder: Path, to: Marked) -> None:
    """Send a folder through the log, and remove it."""
    from eed_search.cli.sent_folder import lines

    try:
        for line in lines(folder):
            to.write(f"{line}\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
