"""A command on a cluster: sent as a job, its output shown here, its files brought here.

The same command runs there, on the head, where the searches lie. What it prints names this machine's commands.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eed_search.cli.console import say
from eed_search.cli.guard import INTERRUPTED
from eed_search.cli.result import command, where
from eed_search.cli.sent_folder import SentFolder
from eed_search.cluster.where import Place, WhereAsked, find
from eed_search.core.errors import RunError
from eed_search.search.execution.package import JOB_VARIABLE

if TYPE_CHECKING:
    from eed_search.cluster.jobs import Jobs

_HEAD_HOME = "~/eed-search"


def cluster_home(home: Path) -> str:
    """Say where a home lies on a cluster: a relative one below a folder of its user's home."""
    return str(home) if home.is_absolute() else f"{_HEAD_HOME}/{home.as_posix()}"


def flags(**given: object) -> list[str]:
    """Write options as words: `as_json=True` is `--json`, `trials=4` is `--trials 4`; None and False are left out."""
    words = []
    for name, value in given.items():
        option = f"--{name.removeprefix('as_').replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, str(value)]
    return words


@dataclass(frozen=True)
class RemoteCluster:
    """A cluster on which commands are run.

    Attributes:
        place: Where it is.
        asked: How the command line found it.
        home: The home, as this command line says it.
    """

    place: Place
    asked: WhereAsked
    home: Path

    @property
    def suffix(self) -> str:
        """The options by which a command from here finds the same home on the same cluster."""
        return where(self.home) + "".join(f" {shlex.quote(word)}" for word in self.asked.options())

    # ------------------------------------------------------------ commands that answer and end

    def ask(self, words: Sequence[str]) -> None:
        """Run a command there, show what it says, and end with its exit code if that is not 0.

        Raises:
            RunError: If the cluster is not reached or cannot run it.
        """
        with self._jobs() as jobs:
            job = self._send(jobs, [*words, "--local"], label=words[0])
            try:
                code = self._show(jobs, job, _print)
            except KeyboardInterrupt:
                jobs.stop(job)
                raise
            finally:
                jobs.forget(job)
        if code:
            raise typer.Exit(code)

    def fetch(self, words: Sequence[str], out: Path) -> None:
        """Run a command there that makes a folder (`--out`), and bring the folder here.

        Raises:
            RunError: If the cluster is not reached or cannot run it.
        """
        made = f"{cluster_home(self.home)}/.sent-{secrets.token_hex(6)}"
        with self._jobs() as jobs:
            job = self._send(
                jobs, [*words, "--out", made, "--local"], label=words[0], sends=made, swap={made: shlex.quote(str(out))}
            )
            brought = SentFolder(out)
            try:
                code = self._show(jobs, job, _print, brought.take)
            finally:
                jobs.forget(job)
            if not code:
                brought.unpack()
        if code:
            raise typer.Exit(code)

    # ------------------------------------------------------------ commands that last

    def drive(self, words: Sequence[str], *, name: str | None, files: Mapping[str, bytes]) -> None:
        """Start a search there and follow it; Ctrl-C only ends the following.

        Args:
            words: The command.
            name: The search's, for the messages; none where the command finds it itself.
            files: What the command reads.

        Raises:
            RunError: If the cluster is not reached, cannot run it, or is lost.
        """
        shown = f" {name}" if name else ""
        again = f"{command('status')}{shown} --watch{self.suffix}"
        with self._jobs() as jobs:
            job = self._send(jobs, [*words, "--address", "auto"], label=name or words[0], files=files)
            say(f"Sent as job {job}. Ctrl-C or a closed terminal ends only this view; the search goes on.")
            say(f"again   {again}")
            say()
            try:
                code = self._show(jobs, job, _print)
            except KeyboardInterrupt:
                say()
                say("Not followed any more; the search goes on.")
                say(f"again   {again}")
                say(f"end it  {command('stop')}{shown}{self.suffix}")
                raise typer.Exit(INTERRUPTED) from None
            except RunError as error:
                raise RunError(f"{error}. The search may go on without this view: `{again}`") from error
        if code:
            raise typer.Exit(code)

    # ------------------------------------------------------------ MLflow's pages

    def pages(self, words: Sequence[str], port: int) -> None:
        """Serve MLflow's pages there and bring them to a port here, until Ctrl-C.

        Raises:
            RunError: If the cluster is not reached, or only by an address that no tunnel leads to.
        """
        from eed_search.cluster.tunnel import tunnel

        file = self.place.file
        if file is None:
            raise RunError(
                f"ui needs ssh to the head of {self.place.address}; give the cluster's file (`--cluster FILE`), or open"
                " MLflow's own address"
            )
        with self._jobs() as jobs, ExitStack() as stack:
            opened: dict[str, int] = {}
            job = self._send(jobs, [*words, "--port", "0", "--local"], label=words[0])

            def show(line: str, on_stderr: bool) -> None:
                for found in set(re.findall(r"http://(?:127\.0\.0\.1|localhost):(\d+)", line)):
                    if found not in opened:
                        remote = tunnel(file, self.place.head, int(found), port if not opened else 0)
                        opened[found] = stack.enter_context(remote)
                    line = re.sub(
                        rf"http://(?:127\.0\.0\.1|localhost):{found}\b", f"http://127.0.0.1:{opened[found]}", line
                    )
                _print(line, on_stderr)

            try:
                code = self._show(jobs, job, show)
            except KeyboardInterrupt:
                code = 0
                say("The pages are closed.")
            finally:
                jobs.stop(job)
        if code:
            raise typer.Exit(code)

    # ------------------------------------------------------------ shared by them

    @contextmanager
    def _jobs(self) -> Iterator[Jobs]:
        from eed_search.cluster.connection import connect
        from eed_search.cluster.jobs import Jobs

        with connect(self.place) as connection:
            yield Jobs(connection)

    def _send(
        self,
        jobs: Jobs,
        words: Sequence[str],
        *,
        label: str,
        files: Mapping[str, bytes] | None = None,
        sends: str = "",
        swap: Mapping[str, str] | None = None,
    ) -> str:
        client = {
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "requires": [text for text in metadata.requires("eed-search") or () if "extra ==" not in text],
            "home": cluster_home(self.home),
            "suffix": self.suffix,
            "sends": sends,
            "swap": dict(swap or {}),
        }
        remote = ["python", "-m", "eed_search.cli.on_head", json.dumps(client), *words]
        return jobs.send(
            shlex.join(remote),
            name=f"eed-{label}-{secrets.token_hex(4)}",
            files=files or {},
            variables={
                "COLUMNS": str(shutil.get_terminal_size((80, 24)).columns),
                JOB_VARIABLE: "1",
                "PYTHONUNBUFFERED": "1",
                "RAY_CHDIR_TO_TRIAL_DIR": "0",
                "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
                "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
            },
        )

    def _show(
        self,
        jobs: Jobs,
        job: str,
        show: Callable[[str, bool], None],
        take: Callable[[str], None] = lambda text: None,
    ) -> int:
        end = jobs.follow(job, show, take)
        if end.code is None or (end.code and not end.spoke):
            lines = [line.strip() for line in end.message.splitlines() if line.strip()]
            raise RunError(f"job {job} did not run to its end: {lines[-1] if lines else 'Ray gives no reason'}")
        return end.code


def remote_cluster(asked: WhereAsked, home: Path) -> RemoteCluster | None:
    """Find the cluster that a command is for; none if it is for this machine.

    Raises:
        RunError: If what is named is no cluster that runs.
    """
    place = find(asked)
    if place.kind != "submit":
        return None
    print(place.text, file=sys.stderr)
    return RemoteCluster(place, asked, home)


def default_name(name: str) -> str:
    """Name a search that is sent to a cluster, whose other searches are not known here: by the time."""
    return f"{name[:48]}-{time.strftime('%y%m%d-%H%M%S')}"


def _print(line: str, on_stderr: bool) -> None:
    print(line, file=sys.stderr if on_stderr else sys.stdout, flush=True)
