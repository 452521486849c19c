"""The benchmark of what is saved: how it reads a ledger, what its switches leave, and what its table says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.economy import VARIANTS, Search, expected, main, reached, read_search, spec_of, table
from benchmarks.economy_pipeline import Pipeline, hand_over, judged, own_store, without_limits
from eed_search.config.spec import Constraints, Spec, Threat
from eed_search.config.spec import Search as SearchSpec
from eed_search.frontier.points import run_hypervolume
from eed_search.pipeline.search_context import SearchContext
from eed_search.runs.ledger import read_run
from eed_search.runs.records import Reference, SweptPoint, TrialRecord
from eed_search.search import LocalWorkers, Silent, run
from eed_search.storage.store import Artifact, Store
from tests.search import stub_pipeline


def _search(variant: str, seed: int, *curve: tuple[float, float], base_s: float = 10.0) -> Search:
    end = curve[-1][0]
    trials = {"done": 4, "infeasible": 1}
    return Search(variant, seed, end + 5, base_s, end + 2, curve, curve, trials, {"member": (2, 3)})


def test_the_first_time_at_which_a_value_is_reached() -> None:
    """Known answers."""
    curve = [(1.0, 0.2), (3.0, 0.5)]
    assert [reached(curve, value) for value in (0.1, 0.2, 0.3, 0.5, 0.6)] == [1.0, 1.0, 3.0, 3.0, None]


def test_the_target_is_what_searches_with_everything_on_end_with() -> None:
    """One for all seeds, the mean; all on was there after 20 and 40 s, 10 s of each the base's, all off after 110 and 140 s."""
    text = table(
        [
            _search("on", 0, (20, 0.5)),
            _search("on", 1, (30, 0.4), (40, 0.5)),
            _search("off", 0, (60, 0.3), (110, 0.5)),
            _search("off", 1, (140, 0.6)),
        ]
    )
    assert "Seconds until the hypervolume was 0.500: " in text
    assert "| nothing | 30 s | 30 s | 20 s | 2 of 2 | 35 s | 0.500 | 4 / 10 | 2 of 10 |" in text
    assert "| gate, store, sweep | 125 s | 125 s | 115 s | 2 of 2 | 130 s | 0.550 | 4 / 10 | 2 of 10 |" in text
    assert "All on is 4.2 times as fast as all off (as found); the target is 5: missed." in text
    assert "All on is 5.8 times as fast as all off without the first base's time (as found)" in text


def test_a_search_below_the_mean_counts_as_one_that_did_not_get_there() -> None:
    """All on ends with 0.4 and 0.6: 0.5 took 32 s in vain and then 50 s."""
    text = table([_search("on", 0, (30, 0.4)), _search("on", 1, (50, 0.6))])
    assert "Seconds until the hypervolume was 0.500: " in text
    assert "| nothing | 82 s | 82 s | 62 s | 1 of 2 |" in text


def test_a_base_that_is_given_is_compared_for_itself() -> None:
    """Beside all off, in lines of its own."""
    text = table([_search("on", 0, (20, 0.6)), _search("off-given", 0, (40, 0.6))])
    assert "| gate, store but the base, sweep | 40 s |" in text
    assert (
        "All on is 2.0 times as fast as all off, each trial given the base, (as found); the target is 5: missed."
        in text
    )
    assert "as all off (as found)" not in text


def test_a_search_that_does_not_get_there_counts_with_its_time() -> None:
    """Two searches spend 112 s in vain and 60 s to the target, one gets there: 172 s are to be expected."""
    vain, good = _search("off", 0, (110, 0.4)), _search("off", 1, (60, 0.5), (90, 0.7))
    found = expected([vain, good], "found", 0.5)
    assert (found.seconds, found.reached) == (172, True)
    assert expected([vain, good], "found", 0.5, without_base=True).seconds == 152
    text = table([_search("on", 0, (20, 0.5)), _search("on", 1, (20, 0.5)), vain, good])
    assert "| gate, store, sweep | 172 s | 172 s | 152 s | 1 of 2 |" in text
    assert "All on is 8.6 times as fast as all off (as found); the target is 5: reached." in text


def test_a_target_that_nobody_reaches_is_said() -> None:
    """The time is then a lower bound, and so is the factor; without a search of all on there, nothing is claimed."""
    on, off = _search("on", 0, (20, 0.6)), _search("off", 0, (110, 0.4))
    text = table([on, off], target=0.5)
    assert "| gate, store, sweep | > 112 s | > 112 s | > 102 s | 0 of 1 |" in text
    assert "All on is more than 5.6 times as fast as all off (as found)" in text
    assert "All on against all off: no search with all on reached the target." in table([on, off], target=0.7)


def test_a_search_without_a_point_sets_no_target() -> None:
    """It is shown with the time at which it ended."""
    none = replace(_search("on", 1, (110, 0.4)), strict=(), found=())
    text = table([_search("on", 0, (20, 0.6)), none])
    assert "Seconds until the hypervolume was 0.600" in text
    assert "| nothing | 132 s | 132 s | 112 s | 1 of 2 |" in text


def test_other_targets_are_shown_beside_it() -> None:
    """Each hundredth between the first point found and the best that all on has."""
    text = table([_search("on", 0, (20, 0.40), (30, 0.421)), _search("off", 0, (60, 0.405), (110, 0.41))])
    rows = [
        "| 0.40 | 20 s | 60 s | 3.0 |",
        "| 0.41 | 30 s | 110 s | 3.7 |",
        "| 0.42 | 30 s | > 112 s | more than 3.7 |",
    ]
    assert text.splitlines()[-3:] == rows


@pytest.mark.whole
def test_a_ledger_gives_both_curves(tmp_path: Path) -> None:
    """The strict one ends with what the search shows; the other counts a confirmed threshold from its trial on."""
    spec = Spec(name="stub", threat=Threat(eps=0.15), search=SearchSpec(trials=5, racing=False))
    run(spec, home=tmp_path, name="run", pipeline=stub_pipeline, listener=Silent(), workers=LocalWorkers())  # type: ignore[arg-type]
    found, view = read_search(tmp_path / "run", "on", 0), read_run(tmp_path / "run")
    assert found.trials["done"] == 5
    assert 0 < found.base_s < found.searched_s < found.seconds
    assert found.hypervolume == found.found[-1][1] == pytest.approx(run_hypervolume(view))
    assert found.strict[-1][1] >= found.hypervolume - 1e-9
    assert view.confirmed
    for curve in (found.strict, found.found):
        assert [value for _, value in curve] == sorted({value for _, value in curve})
        assert [seconds for seconds, _ in curve] == sorted(seconds for seconds, _ in curve)
    assert found.found[-1][0] < found.strict[-1][0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_in_their_switches_alone(variant: str) -> None:
    """The sweep is a key of the file; store and gate are the pipeline's."""
    spec = spec_of(variant, 3, 7, 0.6, tiny=False)
    assert (spec.seed, spec.search.trials, spec.baselines.sizes) == (3, 7, ())
    assert spec.search.constraints.max_worst_case_slowdown == 0.6
    assert (spec.gate.sweep == 0) == ("sweep" in VARIANTS[variant])
    same = spec_of("on", 3, 7, 0.6, tiny=False)
    assert spec.model_copy(update={"gate": same.gate, "name": same.name}) == same


# ---------------------------------------------------------------- the switches


def _setting(tmp_path: Path, **limits: float) -> SearchContext:
    made = Store(tmp_path / "store").get("base.1", {"a": 1}, lambda seed: Artifact({"w": np.zeros(3)}))
    base = Reference("dense base", stub_pipeline.measurement(0.8, 1.0, f"base.1/{made.key}"), 1.0)
    constraints = Constraints.model_validate(limits)
    spec = Spec(name="t", threat=Threat(eps=0.1), search=SearchSpec(constraints=constraints))
    return SearchContext(spec, str(tmp_path / "store"), base, 0.0, 10, (1, 8, 8))


def test_a_store_of_its_own_holds_nothing_that_another_made(tmp_path: Path) -> None:
    """At most the base, where it is given; what the trial itself makes stays for its next rung."""
    setting = _setting(tmp_path)
    Store(tmp_path / "store").get("member.1", {"b": 2}, lambda seed: Artifact({"w": np.ones(2)}))
    own = own_store(setting, 4, base=True)
    assert [path.name for path in own.iterdir()] == ["base.1"]
    assert Store(own).load(setting.base.measurement.artifact).artifact.tensors["w"].tolist() == [0, 0, 0]
    made = Store(own).get("team.1", {"c": 3}, lambda seed: Artifact({"w": np.ones(1)}))
    assert own_store(setting, 4, base=True) == own
    assert Store(own).has("team.1", made.key)
    hand_over(f"team.1/{made.key}", own, tmp_path / "store")
    assert Store(tmp_path / "store").has("team.1", made.key)
    other = own_store(setting, 5, base=False)
    assert other != own
    assert not other.exists()


def test_without_the_gate_a_limit_is_judged_after_measuring(tmp_path: Path) -> None:
    """The trial is unlimited; its record ends as the search's limits say, swept thresholds included."""
    setting = _setting(tmp_path, max_worst_case_slowdown=0.5)
    assert without_limits(setting.spec).search.constraints == Constraints()
    fast, slow = stub_pipeline.measurement(0.7, 0.4), stub_pipeline.measurement(0.7, 0.6)
    kept = judged(
        TrialRecord(0, {}, "done", measurement=fast, swept=(SweptPoint(0.3, fast), SweptPoint(0.4, slow))), setting
    )
    assert (kept.outcome, len(kept.swept)) == ("done", 1)
    broken = judged(TrialRecord(0, {}, "done", measurement=slow), setting)
    assert (broken.outcome, broken.reason) == ("infeasible", "max_worst_case_slowdown")
    assert broken.constraints["max_worst_case_slowdown"] == pytest.approx(0.1)
    failed = TrialRecord(0, {}, "failed", reason="oom")
    assert judged(failed, setting) is failed


def test_the_pipeline_has_all_that_a_search_calls() -> None:
    """Every function of the trial's, by name."""
    from eed_search import trial

    for name in ("prepare", "make_probe", "run", "baseline", "final_latencies", "confirm", "recheck"):
        assert callable(getattr(Pipeline(), name))
        assert callable(getattr(trial, name))


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """As wrong use, with what is allowed."""
    for arguments, words in (
        (["--trials-off", "0"], "--trials-off: 0; give 1 or more"),
        (["--target", "2"], "between 0 and 1"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert words in capsys.readouterr().err
