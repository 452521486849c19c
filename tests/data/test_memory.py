"""What images take in memory is known before one is read, and refused where it cannot fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eed_search.config.spec import Data
from eed_search.data.memory import footprint, too_large
from eed_search.system.memory import available_bytes, memory_kills
from tests.data.test_image_folder import draw
from tests.data.test_wild_folders import data


def test_a_folder_s_footprint_follows_from_its_files(tmp_path: Path) -> None:
    """Once as they are read and once for training; validation and fresh images as float32; with num_train those that are used."""
    for i in range(200):
        draw(tmp_path / "ab"[i % 2] / f"{i}.png", seed=i)
    assert footprint(data(tmp_path)).num_bytes == 8 * 8 * 3 * (200 + 180 + 4 * 20)
    assert footprint(data(tmp_path, image_size=512)).num_bytes == 512 * 512 * 3 * (200 + 180 + 4 * 20)
    assert footprint(data(tmp_path, image_size=512, num_train=20)).num_bytes == 512 * 512 * 3 * (30 + 4 * 20)


def test_npz_files_tell_their_size_unread(tmp_path: Path) -> None:
    """Compressed ones too."""
    np.savez_compressed(tmp_path / "train.npz", images=np.zeros((300, 64, 64, 3), np.uint8), labels=np.arange(300) % 2)
    np.savez(tmp_path / "test.npz", images=np.zeros((100, 64, 64, 3), np.uint8), labels=np.arange(100) % 2)
    found = footprint(Data(source="npz", path=str(tmp_path), num_validation=50, num_fresh=30))
    assert found.num_bytes == 64 * 64 * 3 * (400 + 320 + 4 * 80)


def test_what_cannot_fit_is_refused_with_the_figures(tmp_path: Path) -> None:
    """How much, in how many processes, what is free, what to do."""
    for i in range(20):
        draw(tmp_path / "ab"[i % 2] / f"{i}.png", seed=i)
    assert too_large(data(tmp_path, image_size=512), 3, available=10**9) == ""
    assert too_large(data(tmp_path, image_size=512), 3, available=10**8) == (
        "data: 20 images of 512×512 take 79 MB in each of 3 processes, and 100 MB are free; take a smaller data.image_size,"
        " data.num_train, or fewer trials at once (larger resources.cpu)"
    )


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "3000", "memory.current": "1000", "memory.stat": "anon 5\ninactive_file 200"}, 2200),
        ({"memory.max": "max", "memory.current": "1000"}, 8_192_000),
        ({"memory/memory.limit_in_bytes": "5000", "memory/memory.usage_in_bytes": "1000"}, 4000),
        ({}, 8_192_000),
    ],
)
def test_the_container_s_limit_counts(tmp_path: Path, files: dict[str, str], left: int) -> None:
    """Both versions of control groups; else what the system has."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path / "meminfo", tmp_path) == left


def test_kills_for_memory_are_counted(tmp_path: Path) -> None:
    """By the system or by the container; none where neither tells."""
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 2\n")
    assert memory_kills(tmp_path / "none", tmp_path) == 0
    assert memory_kills(tmp_path / "vmstat", tmp_path) == 2
    (tmp_path / "memory.events").write_text("low 0\noom 4\noom_kill 3\n")
    assert memory_kills(tmp_path / "vmstat", tmp_path) == 3
