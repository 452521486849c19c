"""One trial, from parameters to record, on real digits with tiny networks; the latency probe is real."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from eed_search import trial
from eed_search.config.loader import parse
from eed_search.config.params import MemberChoice, TrialParams
from eed_search.config.plans import plan_members
from eed_search.config.spec import Spec
from eed_search.core.errors import StoreError
from eed_search.deployment.bundle import verify
from eed_search.ensemble.gate import RUNS_ALL
from eed_search.frontier.points import points
from eed_search.pipeline import export
from eed_search.pipeline.context import open_context
from eed_search.pipeline.training import base_stage
from eed_search.runs.cost import attacked_speedup, latency_of
from eed_search.runs.ledger import Event, EventKind, RunView, fold
from eed_search.runs.records import FreshCheck, Point, RungResult, TrialRecord, to_json, unpack_bits
from eed_search.search.sampling.proposals import first_proposals, suggest
from eed_search.storage.store import Artifact
from tests.evaluation.clocks import COMPUTING, ticking

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "num_train": 160, "num_validation": 40, "num_fresh": 20, "num_test": 20},
    "threat": {"eps": 0.1},
    "model": {"name": "small_cnn", "width": 8},
    "base": {"epochs": 3, "batch_size": 32, "attack": {"steps": 2}},
    "members": {"block": 4, "score_samples": 16, "finetune": {"epochs": 1, "batch_size": 32, "attack": {"steps": 1}}},
    "joint": {"epochs": 1, "batch_size": 32, "attack": {"steps": 1}},
    "evaluation": {"steps": 3},
    "latency": {"rounds": 3, "final_rounds": 3, "final_calls": 100, "final_processes": 1, "block_ms": 1},
    "baselines": {"sizes": [0.5]},
    "search": {"trials": 2, "space": {"size": [0.5, 1.0]}},
}


def silent(text: str) -> None:
    """Report to nobody."""


def spec_with(**sections: Any) -> Spec:
    plain = {name: dict(value) if isinstance(value, dict) else value for name, value in TINY.items()}
    for name, value in sections.items():
        plain[name] = {**plain.get(name, {}), **value}
    return parse(plain, "tiny")


def params(*members: tuple[str, float], **changes: Any) -> TrialParams:
    chosen = tuple(MemberChoice(score, size) for score, size in members)  # type: ignore[arg-type]
    fixed = {"subsets": "all", "recovery": "labels", "order": "fast_first"}
    return TrialParams(chosen, **(fixed | {"beta": 0.1, "omega": 1.0, "gamma": 0.1, "gate_threshold": 0.3} | changes))


class Session:
    """A prepared search in a folder of its own; its clock does not count how long others had the processor."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.setting = trial.prepare(spec, folder / "store", silent)
        self.probe = trial.make_probe(self.setting, COMPUTING)

    def run(self, chosen: TrialParams, number: int = 0) -> TrialRecord:
        record = trial.run(number, chosen, self.setting, self.probe, silent)
        assert isinstance(record, TrialRecord)
        return record


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("home"), spec_with())


@pytest.fixture(scope="module")
def pair(session: Session) -> TrialRecord:
    return session.run(params(("nis", 0.5), ("bnsf", 1.0)), number=7)


def computed(record: TrialRecord) -> list[str]:
    """Stages that were not in the store; latencies left out, since noisy ones are taken again."""
    stages = [use.stage.partition(".")[0] for use in record.stages if not use.hit]
    return [stage for stage in stages if stage != "latency"]


def test_a_trial_ends_with_everything_measured(pair: TrialRecord, session: Session) -> None:
    """Shares add up, robust samples are clean ones, latency lies between its bounds."""
    measured = pair.measurement
    assert pair.outcome == "done", pair.message
    assert measured is not None
    assert pair.number == 7
    assert sum(measured.exit_shares) == pytest.approx(1)
    assert measured.mean_members_run == pytest.approx(measured.exit_shares[0] + 2 * measured.exit_shares[1])
    assert measured.robust_accuracy.value <= measured.clean_accuracy.value
    assert measured.robust_accuracy.badge == "proxy"
    assert measured.macs <= measured.worst_case_macs
    bits = unpack_bits(measured.robust_hex, 40)
    base = unpack_bits(session.setting.base.measurement.robust_hex, 40)
    assert measured.difference_to_base is not None
    assert measured.difference_to_base.value == pytest.approx(bits.mean() - base.mean())


def test_the_members_are_in_gate_order(pair: TrialRecord, session: Session) -> None:
    """`fast_first` puts the half-width member before the full one."""
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    assert pair.measurement is not None
    team = shop.read_members(shop.store.load(pair.measurement.artifact))
    assert [m.model.classifier.in_features for m in team] == [16, 32]


def test_another_threshold_reuses_everything_but_the_attack(pair: TrialRecord, session: Session) -> None:
    """The gate needs no training: only the attacks on accuracy and on cost are new."""
    again = session.run(params(("bnsf", 1.0), ("nis", 0.5), gate_threshold=0.9))  # named in another order
    assert computed(again) == ["judgement", "slowdown"]


def test_other_thresholds_of_the_team_are_bounds_that_an_attack_confirms(pair: TrialRecord, session: Session) -> None:
    """Clean accuracy and latency are already what the confirming attack says; robust accuracy can only sink."""
    assert pair.swept, "no other threshold of this team adds anything"
    assert pair.measurement is not None
    for point in pair.swept:
        bound = point.measurement
        assert "upper bound" in bound.robust_accuracy.attack
        chosen = params(("nis", 0.5), ("bnsf", 1.0), gate_threshold=point.gate_threshold)
        found = trial.confirm(bound.artifact, chosen, bound, session.setting, silent)
        assert found.clean_accuracy == bound.clean_accuracy
        assert found.exit_shares == bound.exit_shares
        assert found.robust_accuracy.value <= bound.robust_accuracy.value + 0.05  # 40 images: an attack has luck too
        assert "upper bound" not in found.robust_accuracy.attack


def test_swept_points_enter_the_frontier_only_when_confirmed(pair: TrialRecord, session: Session) -> None:
    view, point = view_of(session, pair)
    ids = [f"7.{i}" for i in range(len(pair.swept) + 1)]
    assert [p.id for p in points(view, unrankable=True)] == ["7.0"]
    assert [p.id for p in points(view, unrankable=True, unconfirmed=True)] == ids
    view.confirmed["7.1"] = point.measurement
    assert [p.id for p in points(view, unrankable=True)] == ["7.0", "7.1"]
    assert points(view, unrankable=True)[1].params["gate_threshold"] == pair.swept[0].gate_threshold


def test_a_sweep_can_be_switched_off(session: Session) -> None:
    setting = replace(session.setting, spec=spec_with(gate={"sweep": 0}))
    chosen = params(("nis", 0.5), ("bnsf", 1.0))
    assert trial.run(0, chosen, setting, session.probe, silent).swept == ()


def test_a_recheck_looks_at_fresh_images(pair: TrialRecord, session: Session) -> None:
    """At those that were asked for: the parts add up to the whole."""
    assert pair.measurement is not None
    num = len(open_context(session.setting.spec, session.setting.store_root, silent).data.fresh)

    def check(first: int, end: int) -> FreshCheck:
        assert pair.measurement is not None
        given = (pair.measurement.artifact, TrialParams.from_flat(pair.params), (first, end))
        found = trial.recheck(*given, session.setting, silent)
        assert found.robust_accuracy.num_samples == end - first
        assert found.robust_accuracy.value <= found.clean_accuracy.value
        return found

    whole, parts = check(0, num), [check(0, 3), check(3, num)]
    right = [round(one.clean_accuracy.value * one.clean_accuracy.num_samples) for one in (whole, *parts)]
    assert right[0] == right[1] + right[2]


def test_a_trial_shares_members_with_earlier_ones(pair: TrialRecord, session: Session) -> None:
    """A team of known members trains only the team."""
    again = session.run(params(("nis", 0.5), ("bnsf", 1.0), beta=0.5))
    assert computed(again) == ["team", "judgement", "slowdown"]


@pytest.mark.whole
def test_the_same_trial_elsewhere_gives_the_same_bits(pair: TrialRecord, session: Session, tmp_path: Path) -> None:
    """Stages are pure functions: another store, another process of events, equal weights."""
    other = Session(tmp_path, session.setting.spec)
    record = other.run(params(("nis", 0.5), ("bnsf", 1.0)))
    assert record.measurement is not None
    assert pair.measurement is not None
    assert record.measurement.artifact == pair.measurement.artifact
    first, second = (
        open_context(one.setting.spec, one.setting.store_root, silent).store.load(pair.measurement.artifact)
        for one in (session, other)
    )
    tensors = first.artifact.tensors
    assert all(np.array_equal(tensors[name], value) for name, value in second.artifact.tensors.items())
    assert record.measurement.robust_hex == pair.measurement.robust_hex


def test_equal_members_of_one_team_get_other_random_numbers() -> None:
    """And shared subsets give members of one score their parts in turn, whatever the order of naming."""
    twice = plan_members([MemberChoice("nis", 0.5)] * 2, "all", "labels")
    assert [plan.copy for plan in twice] == [0, 1]
    choices = [MemberChoice("nis", 0.5), MemberChoice("erm", 0.5), MemberChoice("nis", 0.25)]
    plans = plan_members(choices, "shared", "labels")
    assert plans == plan_members(choices[::-1], "shared", "labels")
    assert [(p.choice.score, p.choice.size, p.part) for p in plans] == [
        ("erm", 0.5, 0),
        ("nis", 0.25, 0),
        ("nis", 0.5, 1),
    ]


def test_a_size_limit_is_found_before_any_training(tmp_path: Path) -> None:
    """Infeasible at once: no member, no team, and the record says which limit."""
    session = Session(tmp_path, spec_with(search={"constraints": {"max_size_bytes": 1000}}))
    record = session.run(params(("erm", 0.5)))
    assert (record.outcome, record.reason) == ("infeasible", "max_size_bytes")
    assert record.message == "breaks max_size_bytes (before any training)"
    assert not {"member", "team", "judgement"} & set(computed(record))


def test_a_trial_says_what_its_team_costs_under_attack(pair: TrialRecord, session: Session) -> None:
    """From a stage of its own; a slowed gate asks at least as many members, at most all, and ranks by what it takes."""
    measured = pair.measurement
    assert measured is not None
    assert [use.stage for use in pair.stages if use.stage.startswith("slowdown")] == ["slowdown.1"]
    found = measured.under_attack
    assert found is not None
    assert (found.attack, found.at_least) == ("S1 slow-down, 10 steps", False)
    assert measured.mean_members_run <= found.slowed.members_run <= 2
    assert sum(found.slowed.shares) == pytest.approx(1)
    assert measured.macs <= found.slowed.macs <= measured.worst_case_macs
    clean, attacked, worst = (latency_of(measured, kind).value for kind in ("clean", "attacked", "worst_case"))
    assert clean <= attacked <= worst
    assert all(point.measurement.under_attack.at_least for point in pair.swept)  # type: ignore[union-attr]
    base = session.setting.base.measurement
    assert attacked_speedup(base) == 1.0


def test_a_confirmed_threshold_is_slowed_down_at_itself(pair: TrialRecord, session: Session) -> None:
    """What was a lower bound is then measured."""
    (point, *_) = pair.swept
    chosen = TrialParams.from_flat(pair.params | {"gate_threshold": point.gate_threshold})
    confirmed = trial.confirm(point.measurement.artifact, chosen, point.measurement, session.setting, silent)
    assert confirmed.under_attack is not None
    assert not confirmed.under_attack.at_least
    assert confirmed.under_attack.slowed.members_run >= confirmed.mean_members_run


def test_a_limit_on_the_attacked_latency_is_found_before_training_where_the_fastest_member_breaks_it(
    tmp_path: Path,
) -> None:
    """Whatever an attack does, one member must run."""
    session = Session(tmp_path, spec_with(search={"constraints": {"max_attacked_slowdown": 0.01}}))
    record = session.run(params(("erm", 0.5), ("nis", 0.5)))
    assert (record.outcome, record.reason) == ("infeasible", "max_attacked_slowdown")
    assert not {"member", "team", "judgement", "slowdown"} & set(computed(record))


def test_a_limit_on_the_attacked_latency_is_judged_after_measuring(pair: TrialRecord, session: Session) -> None:
    """A limit between one member's time and the whole team's lets the former through and not a gate that asks all."""
    measured = pair.measurement
    assert measured is not None
    limit = (min(measured.latency.exit_ms) + measured.latency.worst_case_ms) / 2
    strict = spec_with(search={"constraints": {"max_attacked_latency_ms": limit}})
    setting = replace(session.setting, spec=strict)
    chosen = TrialParams.from_flat(pair.params | {"gate_threshold": RUNS_ALL})
    record = trial.run(0, chosen, setting, session.probe, silent)
    assert isinstance(record, TrialRecord)
    assert (record.outcome, record.reason) == ("infeasible", "max_attacked_latency_ms")


@pytest.mark.parametrize("kind", ["attacked", "worst_case"])
def test_a_rung_reports_the_latency_that_ranks(pair: TrialRecord, session: Session, tmp_path: Path, kind: str) -> None:
    """The race sees what the frontier will be drawn by; on a clock by which every network takes as long as the base."""
    store = shutil.copytree(session.setting.store_root, tmp_path / "store", ignore=shutil.ignore_patterns("latency.*"))
    setting = replace(session.setting, store_root=str(store))
    other = replace(setting, spec=spec_with(search={"latency_objective": kind}))
    chosen, probe = TrialParams.from_flat(pair.params), trial.make_probe(setting, ticking())
    clean = trial.run(7, chosen, setting, probe, silent, 1)
    ranked = trial.run(7, chosen, other, probe, silent, 1)
    assert isinstance(clean, RungResult)
    assert isinstance(ranked, RungResult)
    step_ms = setting.base.measurement.latency.latency_ms.value + setting.gate_ms
    assert step_ms <= clean.latency_ms.value <= ranked.latency_ms.value <= 2 * step_ms
    if kind == "worst_case":
        assert ranked.latency_ms.value == pytest.approx(2 * step_ms)


def test_a_limit_on_accuracy_is_judged_after_measuring(session: Session) -> None:
    """The measurement stays in the record, the point does not enter the frontier."""
    strict = spec_with(search={"constraints": {"min_clean_accuracy": 1.0}})
    record = trial.run(0, params(("nis", 0.5)), replace(session.setting, spec=strict), session.probe, silent)
    assert record.measurement is not None
    assert record.measurement.clean_accuracy.value < 1
    assert (record.outcome, record.reason) == ("infeasible", "min_clean_accuracy")


def test_divergence_is_a_failed_trial_with_its_reason(tmp_path: Path) -> None:
    """A learning rate of 10 with momentum blows up; the record says so and nothing is raised."""
    wild = {"epochs": 4, "batch_size": 32, "lr": 10.0, "momentum": 0.999, "weight_decay": 1.0, "schedule": "constant"}
    session = Session(tmp_path, spec_with(members={**TINY["members"], "finetune": wild}))
    record = session.run(params(("erm", 0.5)))
    assert (record.outcome, record.reason) == ("failed", "diverged")
    assert "lower the learning rate" in record.message


@pytest.mark.realtime
def test_masked_members_are_as_slow_as_the_dense_base(tmp_path: Path) -> None:
    """Unstructured zeros: one architecture, measured once, and no speed-up is invented."""
    session = Session(
        tmp_path,
        spec_with(members={**TINY["members"], "granularity": "unstructured"}, search={"space": {"size": [0.05, 0.5]}}),
    )
    record = session.run(params(("nis", 0.05)))
    assert record.outcome == "done", record.message
    measured = record.measurement
    assert measured is not None
    assert measured.macs == session.setting.base.measurement.macs
    assert 0.5 < measured.latency.speedup.value < 2
    assert measured.size_bytes < 0.2 * session.setting.base.measurement.size_bytes
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    member = shop.read_members(shop.store.load(measured.artifact))[0]
    kept = {name: int(mask.sum()) for name, mask in member.masks.items()}
    assert kept["classifier.weight"] == round(0.05 * 320)
    assert int((member.model.get_parameter("classifier.weight") != 0).sum()) <= kept["classifier.weight"]


def test_a_pool_s_team_is_chosen_by_robust_diversity(tmp_path: Path) -> None:
    """Team mode `pool`: members of every score on every subset, and a note where the threshold is out of reach."""
    spec = spec_with(
        members={**TINY["members"], "granularity": "unstructured"},
        team={"mode": "pool", "pool": {"scores": ["nis", "erm"], "num_subsets": 2, "max_members": 3, "accuracy_slack": 1.0, "diversity_threshold": 1.0}},
        search={"space": {"size": 0.5}},
    )  # fmt: skip
    session = Session(tmp_path, spec)
    record = session.run(params(("nis", 0.5), ("erm", 0.5), subsets="shared"))
    assert record.outcome == "done", record.message
    assert computed(record).count("member") == 4
    assert record.measurement is not None
    assert 2 <= record.measurement.num_members <= 3
    assert record.robust_diversity is not None
    assert any("reaches robust diversity 1" in note for note in record.notes) or record.robust_diversity == 1


def test_a_control_is_the_better_of_its_recoveries(session: Session) -> None:
    """Both are trained for as many epochs as a deployed member saw; the more robust one is shown."""
    baseline = trial.baseline(0.5, session.setting, session.probe, silent)
    assert baseline.recipe in ("labels", "distill")
    assert baseline.name == f"from scratch 50 % ({baseline.recipe})"
    assert baseline.measurement.macs < 0.4 * session.setting.base.measurement.macs


def view_of(session: Session, record: TrialRecord) -> tuple[RunView, Point]:
    assert record.measurement is not None
    spec = session.setting.spec.to_plain()
    view = RunView(name="tiny-1", spec=spec, facts={"num_classes": 10}, base=session.setting.base)
    view.trials[record.number] = record
    return view, Point(f"{record.number}.0", record.number, record.params, record.measurement)


def test_a_point_is_exported_and_verified(pair: TrialRecord, session: Session, tmp_path: Path) -> None:
    """The bundle replays label and members run of torch's team."""
    view, point = view_of(session, pair)
    out = export.export_point(view, point, Path(session.setting.store_root).parent, tmp_path / "bundle")
    verify(out)
    assert (out / "member-2.onnx").is_file()


def test_the_exported_file_reruns_exactly_this_point(pair: TrialRecord, session: Session) -> None:
    """Its one proposal is the point's, and running it finds every stage in the store."""
    _, point = view_of(session, pair)
    import yaml

    spec = parse(yaml.safe_load(export.rerun_file(session.setting.spec, point)), "rerun")
    study = optuna.create_study(directions=["maximize", "minimize"])
    for proposal in first_proposals(spec):
        study.enqueue_trial(proposal)
    proposed = suggest(study.ask(), spec)
    assert spec.search.trials == 1
    setting = replace(session.setting, spec=spec)
    again = trial.run(0, TrialParams.from_flat(proposed), setting, session.probe, silent)
    assert isinstance(again, TrialRecord)
    assert computed(again) == []
    assert again.measurement is not None
    assert pair.measurement is not None
    assert again.measurement.artifact == pair.measurement.artifact
    assert again.measurement.robust_hex == pair.measurement.robust_hex


def test_a_trial_stops_at_its_rungs_and_finds_its_work_again(pair: TrialRecord, session: Session) -> None:
    """Half of the images at each rung, no more work than that, and the end is what it is without a race."""
    params = TrialParams.from_flat(pair.params)
    readings = [trial.run(7, params, session.setting, session.probe, silent, rung) for rung in (0, 1)]
    num = session.setting.base.measurement.robust_accuracy.num_samples
    for rung, reading in enumerate(readings):
        assert isinstance(reading, RungResult)
        assert reading.rung == rung
        assert reading.robust_accuracy.num_samples == num // 2
        assert 0 < reading.latency_ms.low <= reading.latency_ms.value
        assert reading.seconds > 0
        assert not any(use.stage.startswith("team") for use in reading.stages) or rung == 1
    again = trial.run(7, params, session.setting, session.probe, silent)
    assert isinstance(again, TrialRecord)
    assert again.measurement is not None
    assert pair.measurement is not None
    # a latency that was noisy is measured anew
    assert replace(again.measurement, latency=pair.measurement.latency) == pair.measurement


@pytest.mark.realtime
def test_final_latencies_time_the_cascade(pair: TrialRecord, session: Session) -> None:
    """The real cascade, not the sum of its members."""
    assert pair.measurement is not None
    both = [
        (pair.measurement.artifact, TrialParams.from_flat(pair.params)),
        (session.setting.base.measurement.artifact, None),
    ]
    found, base = trial.final_latencies(both, [0, 0], session.setting, silent)
    assert found.method == "cascade"
    assert 0 < found.latency_ms.value <= found.worst_case_ms * 2
    assert 0.5 < base.speedup.value < 2
    assert trial.final_latencies(both[::-1], [0, 0], session.setting, silent) == [
        base,
        found,
    ]  # from the store, in the order asked
    again = trial.final_latencies(both, [1, 0], session.setting, silent)
    assert again[0] != found  # measured anew
    assert again[1] == base


# ---------------------------------------------------------------- what the store has lost


@pytest.fixture
def damaged(pair: TrialRecord, session: Session, tmp_path: Path) -> Session:
    """The search in a copy of its store, to be damaged."""
    copy = shutil.copytree(session.setting.store_root, tmp_path / "store")
    other = object.__new__(Session)
    other.setting, other.probe = replace(session.setting, store_root=str(copy)), session.probe
    return other


def flip(file: Path) -> bytes:
    """Change the byte in a file's middle; gives what it held before."""
    before = file.read_bytes()
    data = bytearray(before)
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return before


def notes_of(kind: EventKind, data: dict[str, Any], trial: int | None = None) -> list[str]:
    """What a reader of the run is told after one event of its ledger."""
    view = RunView()
    for seq in (1, 2):  # a line is kept once
        fold(view, Event(seq, kind, trial, json.loads(json.dumps(data)), float(seq)))
    return view.notes


def test_an_altered_member_is_trained_again_and_the_record_says_which(pair: TrialRecord, damaged: Session) -> None:
    """The same bits under the same key; the file is named in the record, and to the reader of the run."""
    (key, *_) = [use.key for use in pair.stages if use.stage == "member.1"]
    file = Path(damaged.setting.store_root) / "member.1" / key / "tensors.safetensors"
    before = flip(file)
    again = damaged.run(TrialParams.from_flat(pair.params))
    assert computed(again) == ["member"]
    assert file.read_bytes() == before
    assert again.measurement is not None
    assert pair.measurement is not None
    assert replace(again.measurement, latency=pair.measurement.latency) == pair.measurement
    line = f"store/member.1/{key}/tensors.safetensors has another hash than its manifest says: altered; set aside as {key}.altered-1, made again"
    assert again.remade == (line,)
    assert line in again.notes
    assert [use.altered for use in again.stages if use.altered] == [line]
    assert notes_of("result", to_json(again), again.number) == [line]


def test_a_rung_says_what_was_altered(pair: TrialRecord, damaged: Session) -> None:
    """Its stages carry it into the ledger."""
    (key, *_) = [use.key for use in pair.stages if use.stage == "member.1"]
    flip(Path(damaged.setting.store_root) / "member.1" / key / "meta.json")
    reading = trial.run(7, TrialParams.from_flat(pair.params), damaged.setting, damaged.probe, silent, 0)
    assert isinstance(reading, RungResult)
    (note,) = notes_of("report", to_json(reading) | {"metrics": reading.metrics()}, 7)
    assert f"member.1/{key}/meta.json has another hash" in note


@pytest.mark.parametrize("damage", ["altered", "gone", "all gone"])
def test_a_team_that_is_lost_is_made_again_where_it_is_confirmed(
    pair: TrialRecord, session: Session, damaged: Session, damage: str
) -> None:
    """From its parameters, with what is left of the store: the same bits, the same measurement, and it is said."""
    (point, *_) = pair.swept
    bound = point.measurement
    chosen = TrialParams.from_flat(pair.params | {"gate_threshold": point.gate_threshold})
    store = Path(damaged.setting.store_root)
    file = store / bound.artifact / "tensors.safetensors"
    before = file.read_bytes()
    if damage == "altered":
        flip(file)
    else:
        shutil.rmtree(file.parent)
    for stage in ("base.1", "member.1", "scores.1", "judgement.2") if damage == "all gone" else ():
        shutil.rmtree(store / stage)
    found = trial.confirm(bound.artifact, chosen, bound, damaged.setting, silent)
    assert file.read_bytes() == before
    whole = trial.confirm(bound.artifact, chosen, bound, session.setting, silent)
    assert replace(found, remade=()) == whole
    says = "tensors.safetensors has another hash" if damage == "altered" else " was gone; made again"
    (note,) = found.remade
    assert f"store/{bound.artifact}" in note
    assert says in note
    assert notes_of("confirmed", {"id": "7.1", "measurement": to_json(found)}) == [note]


def test_lost_networks_are_made_again_for_the_fresh_images_and_the_clock(pair: TrialRecord, damaged: Session) -> None:
    """Base, baseline and team; the first of those timed together says it for all."""
    assert pair.measurement is not None
    baseline = trial.baseline(0.5, damaged.setting, damaged.probe, silent)
    assert baseline.remade == ()
    chosen = TrialParams.from_flat(pair.params)
    store = Path(damaged.setting.store_root)
    lost = [pair.measurement.artifact, baseline.measurement.artifact, damaged.setting.base.measurement.artifact]
    for artifact in lost:
        shutil.rmtree(store / artifact)
    asked = [(lost[0], chosen), (lost[1], None), (lost[2], None)]
    latencies = trial.final_latencies(asked, [0, 0, 0], damaged.setting, silent)
    # the base was made for the team already
    assert latencies[0].remade == tuple(f"store/{artifact} was gone; made again" for artifact in lost[:2])
    assert [one.remade for one in latencies[1:]] == [(), ()]
    assert all((store / artifact / "manifest.json").is_file() for artifact in lost)
    flip(store / lost[1] / "tensors.safetensors")
    (note,) = trial.recheck(lost[1], None, (0, 5), damaged.setting, silent).remade
    assert f"{lost[1]}/tensors.safetensors has another hash" in note


def test_an_altered_base_is_named_by_the_setting(pair: TrialRecord, damaged: Session) -> None:
    key = damaged.setting.base_key
    flip(Path(damaged.setting.store_root) / "base.1" / key / "tensors.safetensors")
    setting = trial.prepare(damaged.setting.spec, Path(damaged.setting.store_root), silent)
    assert any(f"store/base.1/{key}/tensors.safetensors has another hash" in note for note in setting.notes)
    assert setting.base.measurement.robust_hex == damaged.setting.base.measurement.robust_hex


def test_a_team_that_this_file_does_not_make_stays_an_error(pair: TrialRecord, damaged: Session) -> None:
    """Such as after a change of the recipe: another team would not be the one that was measured."""
    with pytest.raises(StoreError, match=r"no sound artifact team.1/abc; it was deleted or altered"):
        trial.recheck("team.1/abc", TrialParams.from_flat(pair.params), (0, 5), damaged.setting, silent)


def test_a_lost_team_is_exported_all_the_same(pair: TrialRecord, damaged: Session, tmp_path: Path) -> None:
    """It is trained again, and that is shown."""
    view, point = view_of(damaged, pair)
    shutil.rmtree(Path(damaged.setting.store_root) / point.measurement.artifact)
    said: list[str] = []
    verify(export.export_point(view, point, tmp_path, tmp_path / "bundle", said.append))
    assert said[0] == f"store/{point.measurement.artifact} was gone; made again"
    assert any(line.startswith("joint fine-tune") for line in said)


def test_trials_take_their_own_cores_only(session: Session) -> None:
    """A worker that prepared a search with every core runs trials on what the file gives them."""
    open_context(session.setting.spec, session.setting.store_root, silent, whole_machine=True)
    open_context(session.setting.spec, session.setting.store_root, silent)
    assert torch.get_num_threads() == 1


def test_a_base_that_was_hardly_trained_says_so(tmp_path: Path) -> None:
    """Without an epoch it answers by chance: the setting's notes, which the report repeats, say what to raise."""
    setting = trial.prepare(spec_with(base={"epochs": 0}), tmp_path, silent)
    (note,) = [note for note in setting.notes if "too briefly" in note]
    assert "raise base.epochs (now 0)" in note


def test_a_base_keeps_the_losses_of_its_epochs(session: Session) -> None:
    """Beside its weights; three epochs, three losses."""
    store = open_context(session.setting.spec, session.setting.store_root, silent).store
    losses = store.load(session.setting.base.measurement.artifact).artifact.meta["losses"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_base_of_an_earlier_version_has_no_losses_and_serves_as_before(session: Session, tmp_path: Path) -> None:
    """Its key is the same, it is not trained again, and its curve is no sign."""
    spec = session.setting.spec
    known = session.setting.base.measurement.artifact
    weights = open_context(spec, session.setting.store_root, silent).store.load(known).artifact.tensors
    shop = open_context(spec, tmp_path, silent)
    kept = replace(base_stage(shop), trains=None, compute=lambda seed: Artifact(weights)).store_in(shop.store)
    setting = trial.prepare(spec, tmp_path, silent)
    assert setting.base.measurement.artifact == known == f"base.1/{kept.key}"
    assert not any("the loss still fell" in note for note in setting.notes)
