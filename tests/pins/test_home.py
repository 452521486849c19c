"""A home that an earlier version made is still good: results are read, points exported and attacked, the search resumed.

Latencies are measured anew on another machine, and another processor rounds otherwise: neither is looked at. What
was trained or attacked once is never computed again. How the home was made stands in `make_home`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eed_search.runs.ledger import read_run
from eed_search.storage.store import StageUse, Store
from tests.cli.calling import call
from tests.pins.home import NUM_SAMPLES, RUN, command, expected, report_figures, stages, stored, unpack

pytestmark = pytest.mark.timeout(1800)  # whole searches, on a machine that may be busy
THEN: dict[str, Any] = expected()
TEAM, OTHER = THEN["team"], THEN["other"]
REPORT = THEN["report"]
TIMED = {"latency", "cascade"}  # stages that belong to a machine
TRAINED = {"base", "control", "twin", "scores", "member", "team"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The earlier version's home, in a copy of its own, with `bundle` beside it."""
    return unpack(tmp_path)


def told(*arguments: object) -> str:
    """Call the command line; gives what it prints."""
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def stage_of(reference: str) -> str:
    """The stage's name without its version."""
    return reference.partition(".")[0]


def test_the_report_as_json_is_the_same(home: Path) -> None:
    """The frontier, and every figure of every classifier."""
    found = report_figures(json.loads(told("report", RUN, "--home", home, "--json")))
    assert found.pop("hypervolume") == pytest.approx(REPORT["hypervolume"])
    assert found == {name: value for name, value in REPORT.items() if name != "hypervolume"}


def test_the_printed_report_is_the_same(home: Path) -> None:
    """A line for each point of the frontier, in order, with its robust accuracy and latency."""
    rows = re.findall(r"^ (\d+\.\d+) +(\d+\.\d) ±\S+ +([0-9.]+)\??", told("report", "--home", home), re.MULTILINE)
    then = {id_: REPORT["measured"][id_] for id_ in REPORT["frontier"]}
    assert [(id_, float(robust)) for id_, robust, _ in rows[: len(then)]] == [
        (id_, round(100 * one["robust_accuracy"], 1)) for id_, one in then.items()
    ]
    assert [float(ms) for _, _, ms in rows[: len(then)]] == [
        pytest.approx(one["latency_ms"], rel=0.01) for one in then.values()
    ]


def test_the_status_is_the_same(home: Path) -> None:
    """Finished, with as many trials, the same frontier."""
    found = json.loads(told("status", RUN, "--home", home, "--json"))
    assert (found["state"], found["trials"]) == ("finished", REPORT["num_trials"])
    assert {point["id"]: point["robust_accuracy"] for point in found["frontier"]} == {
        id_: REPORT["measured"][id_]["robust_accuracy"] for id_ in REPORT["frontier"]
    }


def test_the_exported_bundle_is_sound(home: Path) -> None:
    assert "bundle: sound" in told("verify", home.parent / "bundle")


def test_a_point_is_exported_from_what_was_trained(home: Path) -> None:
    """The bundle is sound, and no stage is made again."""
    before, out = stored(home), home.parent / "exported"
    told("export", RUN, "--select", TEAM, "--out", out, "--home", home)
    assert "exported: sound" in told("verify", out)
    assert stored(home) == before


@pytest.mark.whole
def test_an_attack_of_before_stays_and_a_new_one_is_judged_by_the_one_judge(home: Path) -> None:
    """What was found then stands in the report; the same command attacks again, for the judge is another, and trains nothing."""
    before = stored(home)
    (then,) = read_run(home / RUN).attacks[TEAM]
    assert (then.schema_version, then.robust.value) == (2, THEN["attack"]["robust"])
    done = call("attack", f"{RUN}:{TEAM}", "--num-samples", NUM_SAMPLES, "--home", home, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema_version"] == 3
    assert {name: found[name] for name in ("tier", "split", "eps", "seed", "num_members")} == {
        name: THEN["attack"][name] for name in ("tier", "split", "eps", "seed", "num_members")
    }
    assert [one.schema_version for one in read_run(home / RUN).attacks[TEAM]] == [2, 3]
    assert call("attack", f"{RUN}:{TEAM}", "--num-samples", NUM_SAMPLES, "--home", home, "--json").stdout == done.stdout
    assert stored(home) == before


@pytest.mark.whole
def test_another_point_is_attacked_on_what_was_trained(home: Path) -> None:
    """Its result is written into the run, and no stage is made again."""
    before = stored(home)
    command("attack", f"{RUN}:{OTHER}", "--num-samples", NUM_SAMPLES, "--home", home)
    (found,) = read_run(home / RUN).attacks[OTHER]
    assert found.robust.value <= found.clean.value
    assert stored(home) == before


def test_every_stage_is_found_by_its_settings(home: Path) -> None:
    """The hash of a stage's name and settings is the folder that it lies in."""
    store = Store(home / "store", read_only=True)
    for reference in sorted(stages(home)):
        manifest = json.loads((store.root / reference / "manifest.json").read_text(encoding="utf-8"))
        assert f"{manifest['stage']}/{store.key(manifest['stage'], manifest['settings'])}" == reference
        assert store.load(reference).key == manifest["key"]


@pytest.mark.whole
def test_the_search_gets_another_trial(home: Path) -> None:
    """What is finished stays as it is; the new trial reads the base."""
    files, made, then = stored(home), stages(home), read_run(home / RUN)
    num = len(then.trials)
    command("resume", RUN, "--trials", num + 1, "--allow-drift", "--local", "--home", home)
    now = read_run(home / RUN)
    assert now.state == "finished"
    assert now.trials.keys() == {*then.trials, num}
    assert {number: now.trials[number] for number in then.trials} == then.trials
    assert (now.base, now.baselines) == (then.base, then.baselines)
    after = stored(home)
    assert {name: after.get(name) for name in files} == files
    assert {stage_of(new) for new in stages(home) - made}.isdisjoint({"base", "control", "twin"})
    assert computed(now.trials[num].stages).isdisjoint({"base"})


@pytest.mark.slow
def test_a_point_runs_again_without_computing(home: Path) -> None:
    """The bundle's own search-space file: nothing is trained, and every stage of that trial is read but its times."""
    made = stages(home)
    command("launch", home.parent / "bundle" / "search_space.yaml", "--name", "again", "--home", home, "--local")
    then = read_run(home / RUN).trials[int(TEAM.partition(".")[0])].measurement
    (trial,) = read_run(home / "again").trials.values()
    assert computed(trial.stages) <= TIMED
    assert {stage_of(new) for new in stages(home) - made}.isdisjoint(TRAINED)
    assert trial.measurement is not None
    assert then is not None
    assert (trial.measurement.artifact, trial.measurement.robust_hex) == (then.artifact, then.robust_hex)


def computed(uses: tuple[StageUse, ...]) -> set[str]:
    """Name the stages that were not in the store."""
    return {stage_of(use.stage) for use in uses if not use.hit}
