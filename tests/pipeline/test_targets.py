"""A run's point as a target: its own networks, gate and images, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eed_search.core.errors import DataError, RunError
from eed_search.data.splits import Split, load_splits
from eed_search.evaluation import probes
from eed_search.evaluation.target import Tier
from eed_search.frontier.points import points
from eed_search.pipeline import export
from eed_search.pipeline.targets import AttackOptions, from_bundle, from_run, is_point
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Accuracy, FreshCheck, TrialRecord
from tests.test_trial import Session, params, silent, spec_with


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunView, TrialRecord]:
    """A home with one trained team, and the view of its run."""
    home = tmp_path_factory.mktemp("home")
    spec = spec_with(data={"num_fresh": 60, "num_test": 50})
    session = Session(home, spec)
    record = session.run(params(("nis", 0.5), ("bnsf", 1.0)), number=7)
    assert record.outcome == "done", record.message
    view = RunView(
        name="tiny",
        spec=spec.to_plain(),
        facts={"num_classes": 10},
        base=session.setting.base,
        trials={7: record},
    )
    return home, view, record


Searched = tuple[Path, RunView, TrialRecord]


def test_tier_1_takes_the_fresh_images_and_tier_2_the_test_images(searched: Searched) -> None:
    home, view, _ = searched
    spec = spec_with(data={"num_fresh": 60, "num_test": 50})
    splits = load_splits(spec.data, spec.seed)
    cases: tuple[tuple[Tier, Split, str], ...] = ((1, splits.fresh, "fresh"), (2, splits.test, "test"))
    for tier, split, name in cases:
        target = from_run("tiny", view, "7.0", home, AttackOptions(tier), silent)
        assert (target.split_name, target.eps, target.num_classes) == (name, 0.1, 10)
        assert torch.equal(target.split.images, split.images)


def test_the_team_is_the_points_own(searched: Searched) -> None:
    """It answers the validation images as the trial wrote down, and is timed as the trial timed it."""
    home, view, record = searched
    assert record.measurement is not None
    target = from_run("tiny", view, "7.0", home, AttackOptions(1), silent)
    spec = spec_with(data={"num_fresh": 60, "num_test": 50})
    validation = load_splits(spec.data, spec.seed).validation
    assert probes.right(target.team, validation).mean() == record.measurement.clean_accuracy.value
    assert len(target.team.members) == 2
    assert target.base is not None
    assert target.timing is not None
    assert target.timing.dense_ms == pytest.approx(view.base.measurement.latency.latency_ms.value)  # type: ignore[union-attr]


def test_a_lost_team_is_made_again_and_the_result_says_so(searched: Searched, tmp_path: Path) -> None:
    home, view, record = searched
    assert record.measurement is not None
    copy = shutil.copytree(home, tmp_path / "home")
    shutil.rmtree(copy / "store" / record.measurement.artifact)
    target, whole = (from_run("tiny", view, "7.0", where, AttackOptions(1), silent) for where in (copy, home))
    assert target.notes == (*whole.notes, f"store/{record.measurement.artifact} was gone; made again")
    for mine, theirs in zip(target.team.state_dict().values(), whole.team.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_searchs_own_figure_on_fresh_images_is_held_against(searched: Searched) -> None:
    """Only where the images are the same: all of them, at tier 1."""
    home, view, record = searched
    assert record.measurement is not None
    right = probes.right(*(lambda t: (t.team, t.split))(from_run("tiny", view, "7.0", home, AttackOptions(1), silent)))
    fresh = FreshCheck(Accuracy.of(right), record.measurement.robust_accuracy, "")
    checked = replace(view, fresh={"7.0": fresh})
    recorded = from_run("tiny", checked, "7.0", home, AttackOptions(1), silent).recorded
    assert recorded == ("the search", right.mean())
    assert from_run("tiny", checked, "7.0", home, AttackOptions(1, num_samples=50), silent).recorded is None
    assert from_run("tiny", checked, "7.0", home, AttackOptions(2), silent).recorded is None


def test_the_base_is_a_target_and_has_an_undefended_twin(searched: Searched) -> None:
    """The twin was trained on clean images alone: as accurate, and broken where the base is not."""
    home, view, _ = searched
    target = from_run("tiny", view, "base", home, AttackOptions(1), silent)
    assert target.base is None
    assert target.twin is not None
    assert type(target.twin()) is type(target.team.members[0])


def test_an_unknown_point_and_too_few_images_are_refused(searched: Searched) -> None:
    home, view, _ = searched
    ids = ", ".join(point.id for point in points(view, unrankable=True, unconfirmed=True))
    with pytest.raises(RunError, match=f"has no point 9.0; there: {ids}, base"):
        from_run("tiny", view, "9.0", home, AttackOptions(1), silent)
    with pytest.raises(DataError, match=r"30 samples: too few to say anything \(at least 50"):
        from_run("tiny", view, "7.0", home, AttackOptions(1, num_samples=30), silent)


def test_an_exported_bundle_is_the_same_target(searched: Searched, tmp_path: Path) -> None:
    """Same images, same answers and depths, same claimed latency, from the folder alone."""
    home, view, _ = searched
    (point,) = (p for p in points(view, unrankable=True) if p.id == "7.0")
    folder = export.export_point(view, point, home, tmp_path / "bundle")
    bundle, own = (
        from_bundle(folder, AttackOptions(1), silent),
        from_run("tiny", view, "7.0", home, AttackOptions(1), silent),
    )
    assert torch.equal(bundle.split.images, own.split.images)
    for ours, theirs in zip(probes.answers(bundle.team, own.split.images), probes.answers(own.team, own.split.images), strict=True):  # fmt: skip
        assert (ours == theirs).all()
    assert bundle.eps == own.eps
    assert bundle.timing is not None
    assert own.timing is not None
    assert bundle.timing.dense_ms == own.timing.dense_ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("7.0", True), ("first:7.0", True), ("a.b:7.12", True), ("knee", True), ("first:base", True)],
        *[("module:make", False), ("folder", False), ("package.module:base_model", False), ("7", False)],
    ],
)
def test_points_are_told_from_models(text: str, expected: bool) -> None:
    assert is_point(text) is expected
