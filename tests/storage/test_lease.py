"""Leases: at most one holder, whoever comes when; the dead do not block the living."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from eed_search.storage.lease import Lease
from eed_search.storage.shared_storage import Storage
from tests.waiting import HANGS_S, until


@dataclass
class Clock:
    """Seconds that a test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}")


def test_the_second_one_does_not_get_it(storage: Storage) -> None:
    first, second = Lease(storage, "work"), Lease(storage, "work")

    assert first.try_acquire()
    assert not second.try_acquire()


def test_once_given_back_the_next_one_gets_it(storage: Storage) -> None:
    first, second = Lease(storage, "work"), Lease(storage, "work")
    first.try_acquire()
    first.release()

    assert second.try_acquire()


def test_leases_of_other_names_do_not_matter(storage: Storage) -> None:
    assert Lease(storage, "work").try_acquire()
    assert Lease(storage, "other").try_acquire()


def test_a_loser_leaves_no_trace(storage: Storage) -> None:
    Lease(storage, "work").try_acquire()
    Lease(storage, "work").try_acquire()

    assert len(storage.names("work")) == 1


def test_a_dead_holder_is_struck_off(storage: Storage) -> None:
    Lease(storage, "work").try_acquire()  # and never beats
    clock = Clock()
    second = Lease(storage, "work", expires_s=60, clock=clock)

    for clock.now in (0, 30, 60):
        assert not second.try_acquire()
    clock.now = 60.1
    assert second.try_acquire()


def test_a_beating_holder_is_not(storage: Storage) -> None:
    """Every beat that is seen gives it the whole time again: an hour in all, looked at each fifty seconds."""
    clock = Clock()
    first = Lease(storage, "work", beat_s=0.01)
    second = Lease(storage, "work", expires_s=60, clock=clock)
    first.try_acquire()
    place = f"work/{storage.names('work')[0]}"
    with first.beating():
        while clock.now < 3600:
            seen = storage.read(place)
            assert not second.try_acquire()
            until(lambda seen=seen: storage.read(place) != seen)
            clock.now += 50


def test_a_holder_that_was_struck_off_finds_out(storage: Storage) -> None:
    first = Lease(storage, "work", beat_s=0.05)
    first.try_acquire()
    with first.beating():
        storage.delete(f"work/{storage.names('work')[0]}")
        until(lambda: first.lost)


def test_the_block_gives_it_back(storage: Storage) -> None:
    with Lease(storage, "work").hold(lambda holder: None):
        assert storage.names("work")

    assert not storage.names("work")


def test_a_waiter_is_told_of_the_holder(storage: Storage) -> None:
    first = Lease(storage, "work")
    first.try_acquire()
    told: list[str] = []

    def wait(holder: str) -> None:
        told.append(holder)
        first.release()

    with Lease(storage, "work").hold(wait, every_s=0.02):
        pass

    assert "process" in told[0]


def test_of_many_at_once_one_at_a_time_works(storage: Storage) -> None:
    inside, most, done = 0, 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most, done
        with Lease(storage, "work").hold(lambda holder: None, every_s=0.02):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.005)
            with lock:
                inside -= 1
                done += 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_S)

    assert (most, done) == (1, 6)
