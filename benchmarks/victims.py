"""Whom a search can lose, one process at a time: its driver, a worker, Ray's raylet and GCS, MLflow's server.

`benchmarks/kills.py` kills them at random in every phase; `benchmarks/chaos.py` stops and kills MLflow's server. Only
processes that were started here are touched, by their numbers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

Victim = Literal["driver", "worker", "raylet", "gcs", "mlflow"]
VICTIMS: tuple[Victim, ...] = ("driver", "worker", "raylet", "gcs", "mlflow")
PHASES = (
    "prepare",
    "run",
    "final",
    "recheck",
    "confirm",
    "baseline",
)  # calls of the stub, which leave their process ids
_NAMES = {"raylet": "raylet", "gcs": "gcs_server"}
_LONGEST_S = 300.0


class MlflowServer:
    """MLflow's server, as `eed-search mlflow-server` starts it, on a home of its own.

    Args:
        home: The home; its log lies beside it.

    Attributes:
        url: Where it listens; the same after each start.
    """

    def __init__(self, home: Path) -> None:
        self._home, self._log = home, home.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = "0"
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before, and wait until it answers.

        Raises:
            TimeoutError: If it does not.
        """
        from eed_search.tracking.server import is_healthy, read_note

        command = [sys.executable, "-m", "eed_search.cli", "mlflow-server", "--port", self._port, "--home"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self._home)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _LONGEST_S
        while (note := read_note(self._home)) is None or not is_healthy(note.url):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"MLflow's server did not start; {self._log} says why")
            time.sleep(0.1)
        self.url, self._port = note.url, note.url.rpartition(":")[2]

    def signal(self, number: int) -> None:
        """Send a signal to the processes that answer: they are in a session of their own, which the home's note names."""
        from eed_search.tracking.server import read_note

        if (note := read_note(self._home)) is not None:
            with suppress(ProcessLookupError):
                os.killpg(note.pid, number)

    def answers(self) -> bool:
        """Whether anybody answers where it listens."""
        from eed_search.tracking.server import is_healthy

        return is_healthy(self.url)

    def kill(self) -> None:
        """Kill them, and the command that started them."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> MlflowServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def calls(folder: Path, what: str) -> list[Path]:
    """List the notes that the stub has left for each call of a phase, in their order."""
    return sorted(folder.glob(f"{what}-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def pid_in(call: Path) -> int:
    """Read from such a note which process was called."""
    return int(call.name.split("-")[1])


def ray_process(driver: int, victim: Victim) -> int | None:
    """Find the raylet or the GCS that a driver has started; none if it has none now."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            state = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            command = (process / "cmdline").read_bytes().split(b"\0", 1)[0].decode(errors="replace")
            if int(state[1]) == driver and Path(command).name == _NAMES[victim]:
                return int(process.name)
    return None
