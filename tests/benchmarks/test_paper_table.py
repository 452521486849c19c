"""The paper's table: which networks its rows are, and a tiny one that is cut short, goes on and repeats itself."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import paper_table
from benchmarks.paper_table import COLUMNS, ROWS, main, params_of, share, spec_of
from eed_search.evaluation import timing
from tests.benchmarks.test_teams import TINY

FILE = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"
FEW = ["members.radmm.epochs=1", "members.radmm.attack.steps=1", "members.radmm.updates=2", "latency.final_rounds=3"]


def test_every_row_keeps_about_a_fifth_of_the_weights() -> None:
    """Masked as many; of channels the square root, since a layer has as many inputs; low rank as many of what ships."""
    assert {name: share(row, 0.2) for name, row in ROWS.items() if row.masked} == {
        "harp-masked": 0.2,
        "radmm-masked": 0.2,
        "eed-masked": 0.2,
    }
    assert share(ROWS["cstar"], 0.2) == 0.2
    assert share(ROWS["eed"], 0.2) == pytest.approx(math.sqrt(0.2), abs=1e-4)


def test_a_team_is_of_three_scores_with_the_papers_weights() -> None:
    params = params_of(ROWS["eed"], 0.2)
    assert [one.score for one in params.members] == ["nis", "erm", "bnsf"]
    assert (params.beta, params.omega, params.gamma, params.gate_threshold) == (0.5, 10, 4, 0.5)
    alone = params_of(ROWS["harp"], 0.2)
    assert (len(alone.members), alone.members[0].method, alone.beta) == (1, "learned", 0)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_sound_file(name: str) -> None:
    """Each differs from the file in its own keys alone."""
    spec = spec_of(ROWS[name], FILE, [])
    assert spec.baselines.sizes == ()
    if name.startswith("radmm"):
        assert spec.members.radmm.set == ("irregular" if ROWS[name].masked else "filter")


def test_a_share_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(FILE), "--keep", "20"])
    assert "--keep 20: give a share of the weights, above 0 and below 1" in capsys.readouterr().err


@pytest.mark.whole
def test_a_tiny_table_goes_on_where_it_was_cut_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off between training and judging it goes on from the store; called again it prints the same and computes nothing."""
    monkeypatch.setattr(timing, "WARM_UP_S", 0.02)
    sets = [word for one in (*TINY, *FEW) for word in ("--set", one)]
    words = [str(FILE), "--home", str(tmp_path), "--num-samples", "30", *sets, "--rows"]

    class CutOff(Exception):
        pass

    def cut(*args: object, **given: object) -> None:
        raise CutOff

    with monkeypatch.context() as short:
        short.setattr(paper_table, "paper_table", cut)
        with pytest.raises(CutOff):
            main([*words, "eed"])
    trained = sorted(path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*/*/artifact*"))
    capsys.readouterr()
    assert main([*words, "base", "radmm-masked", "eed"]) == 0
    first = capsys.readouterr().out.replace("\r", "").splitlines()
    rows = [line for line in first if line.startswith("| ") and "---" not in line][1:]
    assert [row.split(" | ")[0] for row in rows] == ["| dense base", "| R-ADMM, masked", "| EED, channels"]
    assert all(row.count("|") == len(COLUMNS) + 5 for row in rows)
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row.split(" | ")[1:6])
    assert (
        sorted(path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*/*/artifact*"))[: len(trained)]
        == trained
    )
    monkeypatch.setattr(paper_table, "paper_table", cut)  # nothing is judged twice
    assert main([*words, "base", "radmm-masked", "eed"]) == 0
    again = capsys.readouterr().out.replace("\r", "").splitlines()
    assert [line for line in again if line.startswith("| ")] == [line for line in first if line.startswith("| ")]
