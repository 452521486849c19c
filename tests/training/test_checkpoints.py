"""Checkpoints: the newest sound one is gone on from, writing them costs little, and nothing they meet ends the work."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from eed_search.core import failpoints
from eed_search.storage.files import Files, LocalFiles
from eed_search.storage.shared_storage import Storage
from eed_search.training import checkpoints
from eed_search.training.checkpoints import StageCheckpoint

KEY = "0123abcd"


class Clock:
    """A clock that moves when it is told to, and at each look by `tick_s`."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.now, self.tick_s = 100.0, tick_s

    def __call__(self) -> float:
        self.now += self.tick_s
        return self.now


class Bench:
    """A home, shared storage beside it, and what was said."""

    def __init__(self, root: Path) -> None:
        self.root, self.lines, self.clock = root, list[str](), Clock()
        self.local = LocalFiles(root / "store")
        self.storage = Storage(f"file://{root}/shared")

    def open(self, *places: Files, key: str = KEY) -> StageCheckpoint:
        return StageCheckpoint(places or (self.local,), key, say=self.lines.append, clock=self.clock)

    def files(self, where: str = "store") -> list[Path]:
        return sorted((self.root / where / "unfinished").rglob("*.safetensors"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def state(number: float, size: int = 3) -> dict[str, torch.Tensor]:
    return {"weights": torch.full((size,), number), "step": torch.tensor(int(number)), "none": torch.zeros(0)}


def number_of(found: dict[str, torch.Tensor] | None) -> int | None:
    return None if found is None else int(found["step"])


def never() -> dict[str, torch.Tensor]:
    raise AssertionError("nothing was due")


def test_the_state_kept_last_is_given_bit_by_bit(bench: Bench) -> None:
    """Of every type; a stage that nobody has begun has none."""
    assert bench.open().load() is None
    kept = {
        "a": torch.rand(2, 3),
        "b": torch.rand(4).bfloat16(),
        "c": torch.arange(3),
        "d": torch.tensor([True]),
        "e": torch.rand(1, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    }
    bench.open().save(state(1))
    bench.open().save(kept)
    found = bench.open().load()
    assert found is not None
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) and found[name].dtype == kept[name].dtype for name in kept)
    assert bench.lines == []


def test_two_generations_are_kept_whoever_writes_them(bench: Bench) -> None:
    for number in range(5):
        bench.open().save(state(number))
    assert len(bench.files()) == 2
    kept = bench.open()
    for number in range(5, 9):
        kept.save(state(number))
    assert len(bench.files()) == 2
    assert number_of(bench.open().load()) == 8


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "extend"])
def test_the_one_before_is_taken_where_the_last_is_damaged(bench: Bench, harm: str) -> None:
    """And said; the damaged one is not counted among the two that stay."""
    first = bench.open()
    first.save(state(1))
    first.save(state(2))
    damage(bench.files()[-1], harm)

    again = bench.open()
    assert number_of(again.load()) == 1
    (line,) = bench.lines
    assert "has another hash than its name says: not taken; goes on from main-000001" in line

    again.save(state(3))
    assert number_of(bench.open().load()) == 3
    damage(bench.files()[-1], harm)
    assert number_of(bench.open().load()) == 1


def damage(file: Path, harm: str) -> None:
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    file.write_bytes({"cut": data[:-7], "flip": data, "empty": b"", "extend": data + b"\0"}[harm])


def test_where_all_are_damaged_the_work_begins_anew(bench: Bench) -> None:
    first = bench.open()
    for number in (1, 2):
        first.save(state(number))
    for file in bench.files():
        damage(file, "cut")
    assert bench.open().load() is None
    (line,) = bench.lines
    assert line.endswith("not taken; begins anew")


def test_what_other_code_has_begun_is_not_finished(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what another stage has."""
    bench.open().save(state(1))
    assert bench.open(key="another").load() is None
    assert bench.lines == []
    monkeypatch.setattr(checkpoints, "code_digest", lambda: "newer")
    newer = bench.open()
    assert newer.load() is None
    assert "was written by another version of eed-search or torch: not taken; begins anew" in bench.lines[0]
    newer.save(state(2))
    newer.save(state(3))
    assert number_of(bench.open().load()) == 3
    assert len(bench.files()) == 2  # the other version's is gone


def test_a_file_that_only_looks_like_one_is_none(bench: Bench) -> None:
    """Its name is right, and it holds anything."""
    for data in (b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\x80\x04K\x01."):
        name = f"main-000009.{hashlib.sha256(data).hexdigest()}.safetensors"
        bench.local.write(f"unfinished/{KEY}/{name}", data)
    bench.local.write(f"unfinished/{KEY}/notes.txt", b"x")
    assert bench.open().load() is None


def test_one_is_due_every_ten_seconds(bench: Bench) -> None:
    """Before that not even the state is asked for."""
    kept = bench.open()
    bench.clock.now += 9.9
    kept.at(never)
    bench.clock.now += 0.2
    kept.at(lambda: state(1))
    bench.clock.now += 9.9
    kept.at(never)
    bench.clock.now += 0.2
    kept.at(lambda: state(2))
    assert number_of(bench.open().load()) == 2
    assert len(bench.files()) == 2


def test_at_most_a_hundredth_of_the_time_goes_into_writing(bench: Bench) -> None:
    """What takes 2 s is written once in 200 s; what is large is taken to be slow until it was tried."""

    class Slow(LocalFiles):
        def write(self, name: str, data: bytes) -> None:
            bench.clock.now += 2.0
            super().write(name, data)

    kept = bench.open(Slow(bench.root / "store"))
    bench.clock.now += 10
    kept.at(lambda: state(1))
    bench.clock.now += 199
    kept.at(never)
    bench.clock.now += 2
    kept.at(lambda: state(2))
    assert number_of(bench.open().load()) == 2

    large = bench.open(key="large")  # 4 MB: 0.04 s at 100 MB/s, so after 4 s; 100 MB would be after 100 s
    size = 25_000_000
    bench.clock.now += 50
    large.at(lambda: {"weights": torch.empty(1).expand(size)})
    assert bench.open(key="large").load() is None


def test_a_full_disk_costs_the_checkpoint_and_is_said_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before stays; with room again the next one is written."""
    failpoints._calls.clear()
    kept = bench.open()
    kept.save(state(1))
    monkeypatch.setenv(failpoints.VARIABLE, "checkpoint.write:enospc:1,checkpoint.write:enospc:2")
    kept.save(state(2))
    kept.save(state(3))
    assert number_of(bench.open().load()) == 1
    kept.save(state(4))
    assert number_of(bench.open().load()) == 4
    (line,) = bench.lines
    assert "no checkpoint is kept for now: " in line
    assert "No space left on device" in line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_disk_that_is_really_full_the_last_sound_one_stays(bench: Bench, small_disk: Path) -> None:
    """And no half of another."""
    files = LocalFiles(small_disk)
    kept = bench.open(files)
    kept.save(state(1, size=10_000))  # 40 KB
    kept.save(state(2, size=10_000))
    kept.save(state(3, size=100_000))
    kept.save(state(4, size=100_000))
    assert number_of(bench.open(files).load()) == 2
    (line,) = bench.lines
    assert "No space left on device" in line
    kept.save(state(5, size=10_000))
    assert number_of(bench.open(files).load()) == 5
    assert [file.name for file in (small_disk / "unfinished" / KEY).iterdir() if file.name.startswith(".")] == []


def test_another_machine_goes_on_from_shared_storage(bench: Bench) -> None:
    """It has no checkpoint of its own; what it keeps is numbered on."""
    one = bench.open(LocalFiles(bench.root / "one"), bench.storage)
    bench.clock.now += 10
    one.at(lambda: state(1))
    bench.clock.now += 10
    one.at(lambda: state(2))

    two = bench.open(LocalFiles(bench.root / "two"), bench.storage)
    assert number_of(two.load()) == 2
    bench.clock.now += 10
    two.at(lambda: state(3))
    assert number_of(bench.open(LocalFiles(bench.root / "one"), bench.storage).load()) == 3
    assert len(bench.files("shared")) == 2


def test_a_damaged_one_here_is_replaced_by_the_one_there(bench: Bench) -> None:
    kept = bench.open(bench.local, bench.storage)
    bench.clock.now += 10
    kept.at(lambda: state(1))
    damage(bench.files()[-1], "flip")
    assert number_of(bench.open(bench.local, bench.storage).load()) == 1
    assert len(bench.lines) == 1


def test_storage_that_is_away_costs_its_own_checkpoints_only(bench: Bench) -> None:
    """Those on this machine are written all the same."""
    kept = bench.open(bench.local, bench.storage)
    (bench.root / "shared").write_text("no folder")
    for number in (1, 2, 3):
        bench.clock.now += 10
        kept.at(lambda number=number: state(number))  # type: ignore[misc]
    assert number_of(bench.open().load()) == 3
    (line,) = bench.lines
    assert "storage file://" in line


def test_what_is_finished_leaves_nothing_anywhere(bench: Bench) -> None:
    """All its parts; another stage's stay."""
    kept, other = bench.open(bench.local, bench.storage), bench.open(bench.local, bench.storage, key="other")
    retrain = kept.part("retrain")
    bench.clock.now += 10
    for one in (kept, retrain, other):
        one.at(lambda: state(1))
    assert len(bench.files()) == len(bench.files("shared")) == 3
    kept.clear()
    assert [file.parent.name for file in (*bench.files(), *bench.files("shared"))] == ["other", "other"]
    assert bench.open(bench.local, bench.storage).load() is None


def test_a_part_goes_on_by_itself(bench: Bench) -> None:
    """The parts before it keep their last states."""
    kept = bench.open()
    kept.save(state(1))
    kept.part("retrain").save(state(2))
    again = bench.open()
    assert number_of(again.load()) == 1
    assert number_of(again.part("retrain").load()) == 2


def test_the_time_of_earlier_attempts_is_known(bench: Bench) -> None:
    """Up to their last checkpoint; all parts together."""
    first = bench.open()
    first.load()
    bench.clock.now += 30
    first.save(state(1))
    bench.clock.now += 7  # lost
    second = bench.open()
    second.load()
    assert second.before_s == pytest.approx(30)
    bench.clock.now += 5
    second.save(state(2))
    retrain = second.part("retrain")
    retrain.load()
    bench.clock.now += 3
    retrain.save(state(3))
    third = bench.open()
    third.load(), third.part("retrain").load()
    assert third.before_s == pytest.approx(38)


def test_a_store_for_reading_only_keeps_nothing(bench: Bench) -> None:
    kept = StageCheckpoint((), KEY, say=bench.lines.append, clock=bench.clock)
    bench.clock.now += 1000
    kept.at(never)
    kept.save(state(1))
    kept.clear()
    assert kept.load() is None
    assert bench.files() == []
