"""Members made by other methods than `prune`, through whole trials on real digits with tiny networks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml

from eed_search import trial
from eed_search.config.loader import parse
from eed_search.config.params import MemberChoice, TrialParams
from eed_search.config.plans import plan_members
from eed_search.core.errors import ModelError
from eed_search.deployment.bundle import verify
from eed_search.pipeline import export
from eed_search.pipeline.context import open_context
from eed_search.pipeline.training import base_stage, baseline_recipe, dense_base, member, member_stage, scores_stage
from eed_search.runs.records import TrialRecord
from eed_search.search.sampling.proposals import first_proposals, suggest
from eed_search.training import checkpoints
from tests.test_trial import TINY, Session, silent, spec_with, view_of

ADMM = {"epochs": 1, "batch_size": 32, "updates": 2, "rho": 0.5, "attack": {"steps": 1}}
MEMBERS = {**TINY["members"], "radmm": {"set": "filter", **ADMM}, "cstar": {"block": 1, **ADMM}}
MEMBERS["learned"] = {"epochs": 1, "batch_size": 32, "attack": {"steps": 1}}


def mixed(**members: Any) -> Any:
    return spec_with(
        members={**MEMBERS, **members},
        search={"space": {"size": [0.5, 1.0], "method": ["prune", "radmm", "cstar", "learned"]}},
    )


def params(*members: MemberChoice) -> TrialParams:
    return TrialParams(members, "all", "labels", "fast_first", 0.1, 1.0, 0.1, 0.3)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("home"), mixed())


def complete(session: Session, chosen: TrialParams) -> TrialRecord:
    record = session.run(chosen)
    assert isinstance(record, TrialRecord)
    assert record.outcome == "done", record.message
    return record


@pytest.mark.parametrize("method", ["radmm", "cstar", "learned"])
def test_a_member_of_any_method_works_alone(session: Session, method: Any, tmp_path: Path) -> None:
    """A team of one: trained, measured, exported, and its bundle answers as the trained network does."""
    record = complete(session, params(MemberChoice("nis", 0.5, method)))
    assert record.measurement is not None
    assert record.measurement.size_bytes < session.setting.base.measurement.size_bytes
    assert record.measurement.latency.latency_ms.value > 0
    view, point = view_of(session, record)
    bundle = export.export_point(view, point, Path(session.setting.store_root).parent, tmp_path / "b")
    verify(bundle)


def test_one_team_holds_members_of_several_methods(session: Session) -> None:
    """The name says which is which, and a filter member has the form that its size says."""
    chosen = params(*(MemberChoice("nis", 0.5, method) for method in ("cstar", "prune", "radmm")))
    record = complete(session, chosen)
    assert record.measurement is not None
    assert chosen.title() == "cstar-50 nis-50 radmm-50"
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    team = shop.read_members(shop.store.load(record.measurement.artifact))
    widths = [m.model.state_dict()["features.4.weight"].numel() for m in team]
    assert sorted(widths) == [8, 8, 16]  # a factored network keeps its channels


def test_masked_members_keep_their_form_and_their_masks(tmp_path: Path) -> None:
    session = Session(tmp_path, mixed(radmm={"set": "irregular", **ADMM}))
    record = complete(session, params(MemberChoice("nis", 0.5, "radmm")))
    assert record.measurement is not None
    shop = open_context(session.setting.spec, session.setting.store_root, silent)
    (member,) = shop.read_members(shop.store.load(record.measurement.artifact))
    for name, mask in member.masks.items():
        assert int(mask.sum()) == round(0.5 * mask.numel())
        assert not bool(member.model.get_parameter(name)[~mask].any())


def test_a_flat_table_says_the_method_of_those_that_are_not_pruned() -> None:
    """Tables written before there were methods read as they did, and stay as they were."""
    chosen = params(MemberChoice("nis", 0.5), MemberChoice("nis", 0.25, "radmm"))
    flat = chosen.to_flat()
    assert "member1.method" not in flat
    assert flat["member2.method"] == "radmm"
    assert TrialParams.from_flat(flat) == chosen


def test_what_a_pruned_member_lies_under_does_not_know_of_methods(tmp_path: Path) -> None:
    """Its settings are those of the time before; recipes of other methods do not touch them."""
    shop = open_context(mixed(), tmp_path, silent)
    (plan,) = plan_members([MemberChoice("nis", 0.5)], "all", "labels")
    stage = member_stage(shop, plan)
    assert stage.versioned == "member.1"
    assert stage.settings == {
        "data": shop.data.key,
        "augment": "none",
        "eps": 0.1,
        "recipe": shop.spec.members.finetune.model_dump(),
        "seed": 0,
        "choice": {"score": "nis", "size": 0.5},
        "subsets": "all",
        "part": 0,
        "copy": 0,
        "recovery": "labels",
        "base": base_stage(shop).key(shop.store),
        "granularity": "channel",
        "block": 4,
        "scores": scores_stage(shop, "nis").key(shop.store),
    }


def test_an_admm_member_depends_on_its_recipe_and_not_on_a_score(tmp_path: Path) -> None:
    shop, other = (
        open_context(mixed(), tmp_path, silent),
        open_context(mixed(radmm={**ADMM, "rho": 0.1}), tmp_path, silent),
    )
    nis, erm = (plan_members([MemberChoice(s, 0.5, "radmm")], "all", "labels")[0] for s in ("nis", "erm"))  # type: ignore[arg-type]
    assert member_stage(shop, nis).settings == member_stage(shop, erm).settings
    assert member_stage(shop, nis).settings != member_stage(other, nis).settings


def test_controls_see_as_many_images_as_the_longest_member(tmp_path: Path) -> None:
    """Base 3, ADMM 1, fine-tune 1 and joint fine-tune 1 epochs; without ADMM in the space 5, as before."""
    assert baseline_recipe(open_context(mixed(), tmp_path, silent)).epochs == 6
    assert baseline_recipe(open_context(spec_with(), tmp_path, silent)).epochs == 5


def test_a_score_that_nobody_looks_at_is_not_drawn() -> None:
    """Two proposals that must behave alike are one."""
    plain = {
        **TINY,
        "members": MEMBERS,
        "search": {"space": {"method": ["prune", "radmm"], "num_members": 1, "size": [0.5, 1.0]}},
    }
    spec = parse(plain, "case")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = []
    for _ in range(40):
        drawn = study.ask()
        trials.append((suggest(drawn, spec), drawn.params))
    ours = [(flat, drawn) for flat, drawn in trials if flat.get("member1.method") == "radmm"]
    assert 5 < len(ours) < 35
    assert all("member1.score" not in drawn and flat["member1.score"] == "nis" for flat, drawn in ours)


def test_a_point_of_several_methods_runs_again_exactly(session: Session) -> None:
    """Its file names every member's method."""
    chosen = params(MemberChoice("nis", 0.5), MemberChoice("nis", 0.5, "radmm"))
    record = complete(session, chosen)
    _, point = view_of(session, record)
    again = parse(yaml.safe_load(export.rerun_file(session.setting.spec, point)), "again")
    study = optuna.create_study()
    study.enqueue_trial(first_proposals(again)[0])
    assert TrialParams.from_flat(suggest(study.ask(), again)) == chosen
    assert asdict(chosen)["members"][1]["method"] == "radmm"


def test_a_size_that_no_member_can_have_stops_the_search_before_training(tmp_path: Path) -> None:
    spec = spec_with(members=MEMBERS, search={"space": {"size": [0.5, 0.01], "method": "cstar"}})
    with pytest.raises(ModelError, match=r"size 0\.01 is below what low rank can reach"):
        trial.prepare(spec, tmp_path, silent)
    assert not (tmp_path / "base.1").exists()


class Cut(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("method", ["radmm", "cstar", "learned"])
def test_a_member_whose_making_was_cut_off_goes_on_where_it_was(
    tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt starts from the kept state and ends with the bits of one that was never cut."""
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "MOST_SHARE", 1e9)
    longer = {name: {**MEMBERS[name], "epochs": 2} for name in ("radmm", "cstar", "learned")}
    lines: list[str] = []

    def cut_off(text: str) -> None:
        lines.append(text)
        if "epoch 2 of 2" in text:
            raise Cut

    choice = MemberChoice("nis", 0.5, method)
    (plan,) = plan_members([choice], "all", "labels")
    whole, shop = (open_context(mixed(**longer), tmp_path / name, silent) for name in ("whole", "cut"))
    base, base_key = dense_base(whole)
    expected = member(whole, plan, base)
    assert dense_base(shop)[1] == base_key
    shop.report = cut_off
    with pytest.raises(Cut):
        member(shop, plan, base)
    assert list((tmp_path / "cut" / "unfinished").iterdir())
    shop.report = lines.append
    lines.clear()
    again = member(shop, plan, base)
    assert not any("epoch 1 of 2" in line for line in lines)
    assert any("goes on at epoch 1." in line for line in lines)
    state = again.member.model.state_dict()
    assert all(torch.equal(state[n], t) for n, t in expected.member.model.state_dict().items())
    assert not list((tmp_path / "cut" / "unfinished").iterdir())
