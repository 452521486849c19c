"""A calibration times the real stages on untrained networks, and keeps nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eed_search.config.loader import parse
from eed_search.config.params import MemberChoice
from eed_search.config.plans import plan_members
from eed_search.config.spec import Spec
from eed_search.forecast.cached_stages import find_cached
from eed_search.forecast.calibration import UnitCosts, calibrate, measured_sizes
from eed_search.forecast.space_size import all_members
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.training import dense_base, member
from eed_search.storage.store import Store

PLAIN = {
    "name": "t",
    "threat": {"eps": 0.1},
    "data": {"num_train": 64, "num_validation": 30, "num_fresh": 20},
    "model": {"width": 32},
    "base": {"epochs": 1, "batch_size": 16, "attack": {"steps": 1}},
    "members": {"score_samples": 16, "finetune": {"epochs": 1, "batch_size": 16, "attack": {"steps": 1}}},
    "joint": {"epochs": 0},
    "evaluation": {"steps": 2},
    "latency": {"rounds": 3, "block_ms": 1},
    "baselines": {"sizes": [0.5], "recoveries": ["labels"]},
    "search": {"space": {"num_members": [1, 2], "score": ["erm"], "size": [0.25, 0.5], "recovery": "labels"}},
}


def _spec(**changes: object) -> Spec:
    return parse(PLAIN | changes, "t")


@pytest.fixture(scope="module")
def units() -> UnitCosts:
    shop = StageContext(_spec(), Store(Path("nowhere"), read_only=True), lambda text: None)
    before = torch.get_num_threads()
    found = calibrate(shop, cores=1)
    assert torch.get_num_threads() == before
    return found


def test_every_kind_of_work_has_a_cost(units: UnitCosts) -> None:
    """All that the search does takes some time, at each of its sizes; what it leaves out takes none."""
    assert (units.num_train, units.num_validation, units.num_fresh, units.image_bytes) == (64, 30, 20, 256)
    assert units.base_step_s > 0
    assert units.base_attack_s > 0
    assert set(units.finetune_step_s) == {"labels"}
    assert units.finetune_step_s["labels"].sizes == (0.25, 0.5)
    assert min(units.finetune_step_s["labels"].values) > 0
    assert units.baseline_step_s["labels"].sizes == (0.5,)
    assert set(units.scores_s) == {"erm"}
    assert units.joint_step_s.values == (0.0, 0.0)
    assert units.attack_s.sizes == units.call_ms.sizes == (0.25, 0.5, 1.0)
    assert min(units.attack_s.values) > 0
    assert min(units.call_ms.values) > 0


def test_a_network_weighs_what_it_ships(units: UnitCosts) -> None:
    """Four bytes a weight; the smaller the fewer."""
    shop = StageContext(_spec(), Store(Path("nowhere"), read_only=True), lambda text: None)
    floats = sum(t.numel() for t in shop.architecture(1.0).state_dict().values() if t.is_floating_point())
    assert units.num_bytes.at(1.0) == 4 * floats
    assert units.num_bytes.at(0.25) < units.num_bytes.at(0.5) < units.num_bytes.at(1.0)


def test_a_calibration_writes_nothing(units: UnitCosts) -> None:
    """Not even the store's folder."""
    assert units.seconds > 0
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ([0.25, 0.5], [0.25, 0.5]),
        ({"low": 0.2, "high": 0.6}, [0.2, 0.4, 0.6]),
        ([0.3, 0.4, 0.5, 0.6, 0.7], [0.3, 0.5, 0.7]),
    ],
)
def test_few_sizes_are_all_measured(size: object, sizes: list[float]) -> None:
    """Of many, both ends and one between."""
    assert measured_sizes(_spec(search={"space": {"size": size}})) == pytest.approx(sizes)


def test_members_that_keep_their_channels_cost_what_the_dense_network_does() -> None:
    """Unstructured pruning makes no network smaller."""
    assert measured_sizes(_spec(members={"granularity": "unstructured"})) == [1.0]


def test_stock_is_what_a_search_has_made(tmp_path: Path) -> None:
    """Base, scores and one member are made through the real stages, then found by a reader that writes nothing."""
    spec = _spec()
    maker = StageContext(spec, Store(tmp_path / "store"), lambda text: None)
    base, _ = dense_base(maker)
    (plan,) = plan_members([MemberChoice("erm", 0.25)], "all", "labels")
    member(maker, plan, base)
    before = sorted(tmp_path.rglob("*"))
    reader = StageContext(spec, Store(tmp_path / "store", read_only=True), lambda text: None)
    found = find_cached(reader, all_members(spec))
    assert (found.base, found.baselines, found.scores, found.members) == (
        True,
        frozenset(),
        frozenset({"erm"}),
        frozenset({plan}),
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_another_seed_has_another_stock(tmp_path: Path) -> None:
    """What a search with another seed made is not this one's."""
    dense_base(StageContext(_spec(), Store(tmp_path), lambda text: None))
    other = StageContext(_spec(seed=1), Store(tmp_path, read_only=True), lambda text: None)
    assert not find_cached(other, []).base
