"""The door to Ray's Jobs API: send a command with our code, follow what it says, learn how it ended.

A job's process marks each line of its own (`marks`): what Ray and libraries print into the same log stays out of
what a person or a program reads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eed_search.cluster.connection import Connection
from eed_search.cluster.marks import DATA, ERR, OUT
from eed_search.core.errors import RunError
from eed_search.search.execution.package import pack
from eed_search.system.loopback import past_proxies
from eed_search.system.private import temporary_folder

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
_END_S = 30.0
_START_S = 60.0

Say = Callable[[str, bool], None]
"""Told each line of the command, and whether it belongs on stderr."""


@dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
        code: The command's exit code; none where it never ran or was killed.
        message: What Ray says of the job.
        spoke: Whether the command printed anything of its own.
    """

    code: int | None
    message: str
    spoke: bool


class Jobs:
    """Jobs of one cluster.

    Args:
        connection: To its dashboard.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        with _without_addresses():
            _be_quiet()
            from ray.job_submission import JobSubmissionClient

            self._client: JobSubmissionClient = JobSubmissionClient(connection.url, headers=connection.token.headers())

    def send(self, command: str, *, name: str, files: Mapping[str, bytes], variables: Mapping[str, str]) -> str:
        """Send a command with our code; it runs on the head in a folder that holds the code and the files.

        Args:
            command: For the shell.
            name: Name of the job; unique on the cluster.
            files: Path to content.
            variables: For its environment and that of every worker it starts.

        Returns:
            The job's name.

        Raises:
            RunError: If the cluster refuses it.
        """
        with temporary_folder("job") as folder, _refusals("could not be sent"):
            (code := folder / "code").mkdir()
            environment = {"working_dir": str(pack(code, files)), "env_vars": dict(variables)}
            deadline = time.monotonic() + _START_S
            while True:
                try:
                    return str(self._client.submit_job(entrypoint=command, submission_id=name, runtime_env=environment))
                except RuntimeError as error:
                    if "No available agent" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(1)  # a cluster that has only just come up

    def follow(self, job: str, say: Say, take: Callable[[str], None] = lambda data: None) -> End:
        """Pass on what a job says until it ends; a connection that is lost is taken up again.

        Args:
            job: Its name.
            say: Told each line.
            take: Given each piece of a folder that is sent.

        Raises:
            RunError: If the cluster stays away.
        """
        log = _Log(say, take)
        tries = 0
        while True:
            before = log.seen
            try:
                asyncio.run(self._tail(job, log))
                return self._end(job, log)
            except (TimeoutError, OSError, RuntimeError, _client_errors()) as error:
                tries = 0 if log.seen > before else tries
                if tries == len(_PAUSES_S):
                    raise RunError(f"the cluster does not answer any more ({_first_line(error)})") from error
                time.sleep(_PAUSES_S[tries])
                tries += 1

    async def _tail(self, job: str, log: _Log) -> None:
        log.again()
        async for text in self._client.tail_job_logs(job):
            log.take(text)

    def _end(self, job: str, log: _Log) -> End:
        deadline = time.monotonic() + _END_S
        while not (info := self._client.get_job_info(job)).status.is_terminal():
            if time.monotonic() > deadline:
                raise ConnectionError("its log ended before the job")
            time.sleep(0.2)
        log.finish(str(self._client.get_job_logs(job)))
        return End(info.driver_exit_code, str(info.message or ""), log.spoke)

    def stop(self, job: str) -> None:
        """Ask a job to end; nothing if it is over or the cluster is away."""
        with suppress(Exception):
            self._client.stop_job(job)

    def forget(self, job: str) -> None:
        """Take a job that is over from the cluster's list."""
        with suppress(Exception):
            self._client.delete_job(job)


class _Log:
    """A job's log as it grows: read again from its beginning after each loss of the connection."""

    def __init__(self, say: Say, data: Callable[[str], None]) -> None:
        self.seen = 0  # characters that were taken in
        self.spoke = False
        self._say, self._data = say, data
        self._skip = 0
        self._rest = ""

    def again(self) -> None:
        self._skip = self.seen

    def take(self, text: str) -> None:
        if self._skip >= len(text):
            self._skip -= len(text)
            return
        text, self._skip = text[self._skip :], 0
        self.seen += len(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            mark = next((mark for mark in (OUT, ERR, DATA) if line.startswith(mark)), None)
            if mark is None:
                continue
            self.spoke = True
            if mark == DATA:
                self._data(line.removeprefix(mark))
            else:
                self._say(line.removeprefix(mark), mark == ERR)

    def finish(self, whole: str) -> None:
        """Take in what came after the tail had ended."""
        self._skip = 0
        self.take(whole[self.seen :])
        if self._rest:
            self.take("\n")


def _client_errors() -> type[Exception]:
    import aiohttp

    error: type[Exception] = aiohttp.ClientError
    return error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise RunError(
            f"the search {what}: {_first_line(error)}; `ray status` on the head shows how the cluster is"
        ) from error


def _be_quiet() -> None:
    """Keep what Ray's client logs off the screen."""
    past_proxies()
    import ray  # noqa: F401  sets its handlers when it is loaded

    logger = logging.getLogger("ray")
    logger.handlers, logger.propagate = [logging.NullHandler()], False


@contextmanager
def _without_addresses() -> Iterator[None]:
    """Hide what Ray's client would take instead of the address that it is given."""
    hidden: dict[str, Any] = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in hidden.items() if value is not None})
