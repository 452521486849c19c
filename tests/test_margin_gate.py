"""The gate of mean logits and a margin from the search-space file to the attack on its bundle, by the very path of the other rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eed_search import trial
from eed_search.config.loader import parse
from eed_search.config.params import TrialParams
from eed_search.config.spec import Spec
from eed_search.core.errors import SpecError
from eed_search.data.splits import Split
from eed_search.deployment.bundle import verify
from eed_search.deployment.runtime import GatedClassifier, GateSettings
from eed_search.ensemble.gate import GatedEnsemble, MarginGate
from eed_search.evaluation import probes
from eed_search.pipeline import export
from eed_search.pipeline.context import open_context
from eed_search.pipeline.robustness import robust_evaluation
from eed_search.pipeline.targets import AttackOptions, from_bundle
from eed_search.runs.records import Point, TrialRecord
from tests.test_trial import Session, params, silent, spec_with, view_of

LEAD = 0.3


def margin_spec() -> Spec:
    space = {"size": [0.5, 1.0], "gate_threshold": {"low": 0.01, "high": 5, "log": True}}
    return spec_with(gate={"rule": "margin"}, search={"space": space})


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("home"), margin_spec())


@pytest.fixture(scope="module")
def pair(session: Session) -> TrialRecord:
    record = session.run(params(("nis", 0.5), ("bnsf", 1.0), gate_threshold=LEAD))
    assert record.outcome == "done", record.message
    return record


def team_of(session: Session, record: TrialRecord, threshold: float) -> GatedEnsemble:
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    assert record.measurement is not None
    members = shop.read_members(shop.store.load(record.measurement.artifact))
    return GatedEnsemble([member.model for member in members], MarginGate(threshold)).eval()


def test_a_trial_is_judged_behind_the_margin(session: Session, pair: TrialRecord) -> None:
    """Members run on validation images are those of mean logits and a lead, told from the weights that are stored."""
    measured = pair.measurement
    assert measured is not None
    images = open_context(session.setting.spec, session.setting.store_root, silent).data.validation.images
    with torch.no_grad():
        logits = torch.stack([member(images) for member in team_of(session, pair, LEAD).members])
    first, second = logits[0].sort(descending=True).values[:, :2].T
    assert measured.exit_shares[0] == pytest.approx(float((first - second >= LEAD).float().mean()))
    assert 0 < measured.exit_shares[0] < 1
    assert measured.robust_accuracy.value <= measured.clean_accuracy.value


def test_the_joint_fine_tune_is_one_of_its_own(session: Session, pair: TrialRecord) -> None:
    """Its ensemble answers with mean logits, so a team for another combination of members is another stage."""
    other = replace(session.setting, spec=spec_with())
    again = trial.run(1, TrialParams.from_flat({**pair.params, "gate_threshold": 0.5}), other, session.probe, silent)
    assert isinstance(again, TrialRecord)
    assert "team" in [use.stage.partition(".")[0] for use in again.stages if not use.hit]
    assert "member" not in [use.stage.partition(".")[0] for use in again.stages if not use.hit]


def test_swept_leads_are_bounds_that_an_attack_confirms(session: Session, pair: TrialRecord) -> None:
    """Clean accuracy and exits at another lead are exact."""
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    models = list(team_of(session, pair, LEAD).members)
    assert pair.measurement is not None
    key = pair.measurement.artifact.partition("/")[2]
    swept = robust_evaluation(shop, models, key, MarginGate(LEAD), name="the team", sweep=True)
    assert len(swept.thresholds) > 3
    assert swept.thresholds.max() > 1
    for i in (0, len(swept.thresholds) // 2, len(swept.thresholds) - 1):
        own = robust_evaluation(shop, models, key, MarginGate(float(swept.thresholds[i])), name="the team")
        assert np.array_equal(own.members_run, swept.swept_members_run[i])
        assert np.array_equal(own.clean_right, swept.swept_clean_right[i])
        assert own.robust_right.sum() <= swept.swept_robust_right[i].sum() + 1


@pytest.fixture(scope="module")
def bundle(session: Session, pair: TrialRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    view, point = view_of(session, pair)
    home = Path(session.setting.store_root).parent
    return export.export_point(view, point, home, tmp_path_factory.mktemp("out") / "bundle")


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_the_bundle_answers_as_the_team(session: Session, pair: TrialRecord, bundle: Path, batch: int) -> None:
    """Label and depth of the exported team are torch's at every batch size, but for images at the threshold itself."""
    assert verify(bundle).num_inputs > 30
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    images = torch.cat([shop.data.validation.images, shop.data.train.images])[:200]
    team, deployed = team_of(session, pair, LEAD), GatedClassifier(bundle)
    assert deployed.gate == GateSettings("margin", LEAD)
    clear = probes.clear(team, images)
    assert clear.mean() > 0.95
    expected = probes.answers(team, images)
    found = [deployed.predict(part.numpy()) for part in images.split(batch)]
    assert np.array_equal(np.concatenate([one.labels for one in found])[clear], expected[0][clear])
    assert np.array_equal(np.concatenate([one.num_members_run for one in found])[clear], expected[1][clear])
    assert set(expected[1]) == {1, 2}


def test_the_bundle_is_attacked_behind_its_own_gate(session: Session, pair: TrialRecord, bundle: Path) -> None:
    """Read back with gradients it is the same team: PGD leaves the same samples as on torch's own."""
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    split = Split(shop.data.train.images[:60], shop.data.train.labels[:60])
    file = bundle.parent / "images.npz"
    np.savez(file, images=split.images.numpy(), labels=split.labels.numpy())
    target = from_bundle(bundle, AttackOptions(1, 0.1, file), silent)
    assert target.team.gate == MarginGate(LEAD)
    team = team_of(session, pair, LEAD)
    held = [probes.pgd(one, split, eps=0.1, steps=10, seed=0) for one in (team, target.team)]
    assert (held[0] != held[1]).sum() <= 1
    assert held[0].mean() < probes.right(team, split).mean()
    assert target.deploy is not None
    saved, replayed = probes.saved_by_deployment(
        target.team, target.deploy(), split.images.numpy(), split.labels.numpy()
    )
    right = probes.right(team, split)[probes.clear(target.team, split.images)]
    assert (saved, replayed) == (right.sum(), right.size)


def test_thresholds_at_both_ends(session: Session, pair: TrialRecord) -> None:
    """A lead of 0 is the first member alone, an unreachable one all members: check 10 of an attack."""
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    found = probes.ends(team_of(session, pair, LEAD), shop.data.validation.images)
    assert found is not None
    lowest, alone, highest, everyone = found
    assert all(np.array_equal(a, b) for a, b in zip((*lowest, *highest), (*alone, *everyone), strict=True))


def test_the_rerun_file_is_accepted(session: Session, pair: TrialRecord) -> None:
    """It says every default and a swept lead, which may be larger than the space's own."""
    assert pair.measurement is not None
    point = Point("0.1", 0, {**pair.params, "gate_threshold": 17.5}, pair.measurement)
    assert "rule: margin" in export.rerun_file(session.setting.spec, point)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"gate": {"rule": "margin"}},
            "tiny: search.space.gate_threshold: is missing; with gate.rule margin it is a lead in logits, such as"
            " {low: 0.1, high: 5, log: true}",
        ),
        (
            {"gate": {"rule": "margin", "tau": 0.5}, "search": {"space": {"gate_threshold": 1, "size": [0.5]}}},
            "tiny: gate.tau: is for rules threshold and map; leave it out, or take one of these",
        ),
        (
            {"search": {"space": {"gate_threshold": [0.5, 3], "size": [0.5]}}},
            "tiny: search.space.gate_threshold: 3 is outside the allowed 0..2 (stop probability; above 1 runs every member);"
            " a lead in logits needs gate.rule margin",
        ),
        (
            {"gate": {"rule": "margin"}, "search": {"space": {"gate_threshold": 101, "size": [0.5]}}},
            "tiny: search.space.gate_threshold: 101 is outside the allowed 0..100 (stop probability, at most 2; with"
            " gate.rule margin the lead in logits)",
        ),
        ({"gate": {"rule": "margins"}}, "tiny: gate.rule: 'margins' is not one of threshold, map, margin"),
    ],
)
def test_what_does_not_fit_the_rule_is_refused(sections: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_with(**sections)
    assert caught.value.problems == [message]


def test_its_file_survives_being_written_out() -> None:
    spec = margin_spec()
    assert parse(spec.to_plain(), "again") == spec


@pytest.mark.realtime
def test_its_cascade_is_timed_as_it_is_deployed(session: Session, pair: TrialRecord) -> None:
    """The final latency: the first member alone at a lead of 0, all members at one that is never reached."""
    assert pair.measurement is not None
    rows = [
        (pair.measurement.artifact, TrialParams.from_flat({**pair.params, "gate_threshold": lead}))
        for lead in (0.0, LEAD, 100.0)
    ]
    first, mixed, every = trial.final_latencies(rows, [0, 0, 0], session.setting, silent)
    assert first.method == mixed.method == every.method == "cascade"
    assert first.latency_ms.value < every.latency_ms.value
    assert first.latency_ms.value < 2 * mixed.latency_ms.value
    assert 0.5 * every.latency_ms.value < mixed.worst_case_ms < 2 * every.latency_ms.value
