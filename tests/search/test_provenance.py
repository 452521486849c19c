"""What a run was made from: hashes that change with the content, and lines that say what changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eed_search.config.spec import Data, Spec, Threat
from eed_search.search.provenance import (
    code_files,
    data_files,
    drift,
    file_drift,
    origin,
    processor,
    spec_drift,
    versions,
)


def test_code_is_every_module_of_ours() -> None:
    """This one's subject too; the same each time."""
    files = code_files()
    assert {"search/provenance.py", "runs/ledger.py", "cli/app.py"} <= files.keys()
    assert files == code_files()


def test_digits_are_known_by_their_file() -> None:
    """Without loading scikit-learn."""
    assert [name for name, content in data_files(Data()).items() if content.endswith(" bytes")] == ["digits.csv.gz"]


def test_other_data_are_known_by_their_files(tmp_path: Path) -> None:
    """A byte that changed is another hash; other files do not count."""
    for name in ("train_1.npz", "test.npz"):
        np.savez(tmp_path / name, images=np.zeros((1, 2, 2, 1), np.uint8))
    (tmp_path / "readme.txt").touch()
    data = Data(source="npz", path=str(tmp_path))
    before = data_files(data)
    assert list(before) == ["train_1.npz", "test.npz"]
    content = bytearray((tmp_path / "test.npz").read_bytes())
    content[50] ^= 1
    (tmp_path / "test.npz").write_bytes(content)
    (line,) = file_drift("data", before, data_files(data), contents=True)
    assert line.startswith("data: changed: test.npz (")
    assert "bytes → " in line


def test_files_that_went_or_came_are_named() -> None:
    """At most five of each, and how many more."""
    before = {f"{i}.py": "a" for i in range(8)}
    assert file_drift("code", before, {"new.py": "a"}) == [
        "code: gone: 0.py, 1.py, 2.py, 3.py, 4.py and 3 more; new: new.py"
    ]
    assert file_drift("code", before, dict(before)) == []
    assert file_drift("code", {}, before) == []  # an older ledger knew nothing


def test_keys_that_differ_are_named_with_both_values() -> None:
    """Deep ones by their path; keys that came or went too."""
    before = {"seed": 0, "search": {"trials": 16, "space": {"size": [0.25, 0.5]}}, "old": 1}
    now = {"seed": 0, "search": {"trials": 20, "space": {"size": [0.25]}}, "new": 3}
    assert spec_drift(before, now) == [
        "search.trials: 16 → 20",
        "search.space.size: [0.25, 0.5] → [0.25]",
        "old: 1 → (not there)",
        "new: (not there) → 3",
    ]


def test_nothing_changed_is_no_drift() -> None:
    """Same code, same data, same processor."""
    spec = Spec(name="s", threat=Threat(eps=0.1))
    now = origin(spec)
    facts = {"versions": versions(), "machine": {"processor": processor()}}
    assert drift(facts, now, now, spec) == []


def test_another_version_and_another_processor_are_drift() -> None:
    """Latencies on another processor do not compare."""
    spec = Spec(name="s", threat=Threat(eps=0.1))
    now = origin(spec)
    facts = {"versions": {"eed-search": "0.0.0"}, "machine": {"processor": "an abacus"}}
    lines = drift(facts, now, now, spec)
    assert lines[0].startswith("eed-search: version 0.0.0 → ")
    assert lines[1].startswith("processor: an abacus → ")
