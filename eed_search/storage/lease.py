"""Leases on shared storage: of several machines that want to do the same work, one does it.

A holder writes a file under its own name and rewrites it while it works. Whoever wants the lease writes its own
file, then looks: alone, it holds the lease; with others, it takes its file back and waits. So at most one
holds it (the storage must list what was written before, as S3, Google's and POSIX file systems do). A holder whose
file does not change for `EXPIRES_S` seconds of the waiter's own clock is dead, and its file is deleted: clocks of
different machines are never compared. Two that come at the same time may both step back; they come again after random pauses.
"""

from __future__ import annotations

import os
import platform
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from eed_search.core.errors import StoreError
from eed_search.storage.shared_storage import Storage

BEAT_S = 10.0
EXPIRES_S = 60.0


class Lease:
    """The right to do one thing, for whoever holds it.

    Args:
        storage: Where it is written down.
        name: What it is a lease on: a folder below the storage.
        beat_s: How often a holder says that it lives.
        expires_s: How long a waiter sees no sign of life before it takes the holder for dead; several times `beat_s`.
        clock: The waiter's, in seconds.

    Attributes:
        lost: Somebody took this holder for dead and struck it off; only work that may be done twice may go on.

    Source:
        Ours; by the rule of Lamport's bakery that one announces oneself before one looks.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        *,
        beat_s: float = BEAT_S,
        expires_s: float = EXPIRES_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage, self._folder = storage, name
        self._beat_s, self._expires_s, self._clock = beat_s, expires_s, clock
        self._mine = uuid.uuid4().hex
        self.lost = False
        self._seen: dict[str, tuple[bytes | None, float]] = {}

    def try_acquire(self) -> bool:
        """Take the lease if nobody holds it.

        Raises:
            StoreError: If the storage cannot be reached.
        """
        if self._others():
            return False
        self._write(0)
        if not self._others():
            return True
        self.release()
        return False

    def release(self) -> None:
        """Give it back."""
        self._storage.delete(self._path(self._mine))

    @contextmanager
    def hold(
        self,
        on_wait: Callable[[str], None],
        every_s: float = 1.0,
        patiently: Callable[[Callable[[], bool]], bool] = lambda do: do(),
    ) -> Iterator[None]:
        """Wait for the lease and hold it for as long as the block lasts.

        Args:
            on_wait: Called with the holder (host and process) at each look while another has it.
            every_s: Seconds between two looks, on average.
            patiently: Calls what it is given, again where the storage does not answer.
        """
        while not patiently(self.try_acquire):
            on_wait(self.holder())
            time.sleep(every_s * random.uniform(0.5, 1.5))
        with self.beating():
            yield

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Say from a thread that the holder lives, and give the lease back in the end."""
        done = threading.Event()

        def beat() -> None:
            count = 0
            while not done.wait(self._beat_s):
                count += 1
                with suppress(StoreError):  # a beat that does not arrive is made good by the next one
                    if self._storage.read(self._path(self._mine)) is None:
                        self.lost = True
                        return
                    self._write(count)

        thread = threading.Thread(target=beat, name=f"lease {self._folder}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with suppress(StoreError):  # whoever waits finds it expired
                self.release()

    def holder(self) -> str:
        """Name the one that was seen holding it: host and process."""
        for content, _ in self._seen.values():
            if content:
                return content.decode(errors="replace").partition("\n")[0]
        return "another machine"

    def _others(self) -> list[str]:
        """List who else announced itself and shows signs of life; the dead are struck off."""
        now = self._clock()
        names = [name for name in self._storage.names(self._folder) if name != self._mine]
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        alive = []
        for name in names:
            content = self._storage.read(self._path(name))
            if content is None:
                continue
            before, since = self._seen.get(name, (None, now))
            if content != before:
                self._seen[name] = content, now
            elif now - since > self._expires_s:
                self._storage.delete(self._path(name))
                del self._seen[name]
                continue
            alive.append(name)
        return alive

    def _write(self, beat: int) -> None:
        text = f"{platform.node()}, process {os.getpid()}\n{beat}\n"
        self._storage.write(self._path(self._mine), text.encode())

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"
