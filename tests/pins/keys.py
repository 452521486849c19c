"""Write tests/pins/keys.json: the key of every stage, for every search space of tests/pins/spaces.

    python -m tests.pins.keys          (from the checkout's root)

The spaces are copies that stay as they are: a key that is added to the format later has a default, under which
their keys hold. A key changes only where its stage's result does, in a commit that says so; everything that
users have in their stores under the old key is then computed again.

Nothing is trained: a store that has everything is asked for it, and remembers by which keys. Images are a
stand-in's, and so is whatever differs from one machine to the next.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eed_search.compression.member import Member, to_arrays
from eed_search.config.loader import Override, load
from eed_search.config.params import MemberChoice, TrialParams, is_scored
from eed_search.config.plans import MemberPlan, plan_members
from eed_search.config.spec import Choice, Dimension, Model, Spec
from eed_search.core.seeds import canonical_json, digest
from eed_search.data.splits import Split, Splits, load_splits
from eed_search.deployment.gates import gate_of
from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation.attacks import tier_attacks
from eed_search.evaluation.latency import RatioEstimate
from eed_search.evaluation.tiers import split_key, team_key
from eed_search.models import build_for, signature
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.latency import Deployed, cascades, latency_ratio
from eed_search.pipeline.robustness import robust_evaluation, slow_down, transfer_failures
from eed_search.pipeline.training import (
    TrainedMember,
    baseline_stage,
    dense_base,
    known_profiles,
    member,
    scores_stage,
    team_stage,
    undefended,
)
from eed_search.runs.records import Interval, Latency, to_json
from eed_search.storage.store import Artifact, Store, Stored
from eed_search.transfer import spec_file as benchmark_file
from eed_search.transfer.bench import Bench
from eed_search.transfer.grid import choices
from eed_search.transfer.spec import model_label

KEYS = Path(__file__).with_name("keys.json")
SPACES = Path(__file__).with_name("spaces")
CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
DATA = {"digits": None, "cifar10_small": CIFAR10}
"""Spaces whose real images are pinned, with their folder."""

NUM_IMAGES = 16
OF_THE_MACHINE = ("machine", "runtime")  # settings that are put in by where the code runs

Told = Callable[[str], None]


class Recording(Store):
    """A store that has every stage, and remembers what it was asked for.

    Args:
        folder: An empty one; nothing is written there.
        artifacts: What it has, by the stage's name without its version.

    Attributes:
        asked: The settings of every stage asked for, by `stage/key`, in order.
    """

    def __init__(self, folder: Path, artifacts: Mapping[str, Artifact]) -> None:
        super().__init__(folder, read_only=True)
        self.artifacts = dict(artifacts)
        self.asked: dict[str, Mapping[str, Any]] = {}

    def key(self, stage: str, settings: Mapping[str, Any]) -> str:
        """Name the artifact, as it would be named on a machine that is nobody's."""
        return super().key(stage, settings | {name: f"some {name}" for name in OF_THE_MACHINE if name in settings})

    def has(self, stage: str, key: str) -> bool:
        """It has everything."""
        return True

    def get(
        self,
        stage: str,
        settings: Mapping[str, Any],
        compute: Callable[[int], Artifact],
        keep: Callable[[Artifact], bool] = lambda artifact: True,
        before_s: Callable[[], float] = lambda: 0.0,
    ) -> Stored:
        """Remember what was asked for; gives what there is for every stage of that name."""
        key = self.key(stage, settings)
        self.asked[f"{stage}/{key}"] = settings
        return Stored(key, self.artifacts[stage.partition(".")[0]], 1.0)


class StandInShop(StageContext):
    """A workshop whose images are given; nothing is read."""

    def __init__(self, spec: Spec, store: Store, data: Splits) -> None:
        self.spec, self.store, self.data = spec, store, data
        self.report = lambda text: None
        self.device = torch.device("cpu")


class Sheet:
    """Gathers keys under labels.

    Args:
        store: Who is asked.

    Attributes:
        keys: `stage/key` by label.
    """

    def __init__(self, store: Recording) -> None:
        self.keys: dict[str, str] = {}
        self._store = store

    def note(self, what: str, ask: Callable[[], Any]) -> Any:
        """Ask for stages, and label those that were not asked for before; gives what was asked for."""
        before = set(self._store.asked)
        found = ask()
        for reference in self._store.asked.keys() - before:
            self._label(f"{reference.partition('.')[0]}: {what}", reference)
        return found

    def add(self, what: str, name: str, key: str) -> None:
        """Label a key that no store is asked for."""
        self._label(f"{name}: {what}", f"{name}/{key}")

    def _label(self, label: str, reference: str) -> None:
        if self.keys.setdefault(label, reference) != reference:
            raise AssertionError(f"{label}: labels two keys")


def space_names() -> list[str]:
    """List the spaces."""
    return sorted(file.stem for file in SPACES.glob("*.yaml"))


def keys_of(name: str, folder: Path) -> tuple[dict[str, str], dict[str, Mapping[str, Any]]]:
    """Find all keys of a space.

    Args:
        name: Of the space.
        folder: An empty one.

    Returns:
        `stage/key` by label, and the settings by `stage/key`.
    """
    file, on_digits = SPACES / f"{name}.yaml", name.endswith("digits")
    data = stand_in(1, 8) if on_digits else stand_in(3, 32)
    changes = () if on_digits else (Override.parse("data.path=/images"),)
    store = Recording(folder, {})
    sheet = Sheet(store)
    if name.startswith("benchmark"):
        _benchmark(sheet, store, benchmark_file.load(file, changes), data)
    else:
        _search(sheet, store, load(file, changes), data)
    return sheet.keys, store.asked


def data_keys(name: str) -> str:
    """Read a space's real images; gives the key that they have as they are split."""
    folder = DATA[name]
    changes = () if folder is None else (Override.parse(f"data.path={folder}"),)
    spec = load(SPACES / f"{name}.yaml", changes)
    return load_splits(spec.data, spec.seed).key


@cache
def stand_in(channels: int, side: int) -> Splits:
    """Few grey images of ten classes, the same on every machine."""
    split = Split(torch.full((NUM_IMAGES, channels, side, side), 0.5), torch.arange(NUM_IMAGES) % 10)
    shape, even = (channels, side, side), (0.5,) * channels
    return Splits(split, split, split, split, 10, shape, even, even, "a stand-in")


# ---------------------------------------------------------------- a search


def _search(sheet: Sheet, store: Recording, spec: Spec, data: Splits) -> None:
    shop = StandInShop(spec, store, data)
    dense = _weights(spec.model, data)
    store.artifacts |= dict.fromkeys(("base", "control", "twin", "member"), dense) | _measured(data)
    store.artifacts["scores"] = Artifact()

    base, base_key = sheet.note("of the search", lambda: dense_base(shop))
    sheet.note("without a defence", lambda: undefended(shop))
    for size in spec.baselines.sizes:
        for recovery in spec.baselines.recoveries:
            sheet.note(
                f"{size:g} {recovery}", lambda s=size, r=recovery: baseline_stage(shop, s, r, base).made_in(shop.store)
            )
    members = [sheet.note(_title(plan), lambda p=plan: member(shop, p, base)) for plan in _plans(sheet, shop)]
    if any(is_scored(member.plan.choice.method) for member in members):
        for score in _values(spec.search.space.score):
            sheet.note(str(score), lambda s=score: scores_stage(shop, s, base).made_in(shop.store))
    sheet.note("of a member", lambda: transfer_failures(shop, base, base_key, members[0]))

    for named, team in (("one", members[:1]), ("two", members[:2])):
        _team(sheet, shop, named, team)
    sheet.note("the dense base", lambda: robust_evaluation(shop, [base], base_key, Gate(), name=""))
    _clock(sheet, shop, base, base_key)
    for tier in (1, 2):
        _tier(sheet, spec, data, tier)


def _team(sheet: Sheet, shop: StandInShop, named: str, team: list[TrainedMember]) -> None:
    """One team through all that is asked of it: trained, attacked at its rungs, at its end, and in the finals."""
    num, threshold = len(team), 0.4
    params = TrialParams(
        tuple(member.plan.choice for member in team),
        subsets="all",
        recovery="labels",
        order="fast_first",
        beta=0.1,
        omega=1.0,
        gamma=0.5,
        gate_threshold=threshold,
    )
    store, gate = shop.store, gate_of(shop.spec.gate, threshold)
    dense = store.artifacts["base"].tensors
    together = {f"member{i}/{name}": array for i in range(1, num + 1) for name, array in dense.items()}
    store.artifacts["team"] = Artifact(together, {"num_members": num})
    stored = sheet.note(f"of {named}", lambda: team_stage(shop, team, params).made_in(shop.store))
    networks = [member.model for member in shop.read_members(stored)]

    def judged(what: str, **how: Any) -> None:
        sheet.note(
            f"a team of {named}, {what}", lambda: robust_evaluation(shop, networks, stored.key, gate, name="", **how)
        )

    judged("at a rung", share=0.5)
    judged("at its end", sweep=True)
    judged("at another threshold")
    judged("fresh images", split="fresh", part=(0, NUM_IMAGES // 2))
    for what, how in (("at a rung", {"share": 0.5}), ("at its end", {"thresholds": np.array([0.25, 0.5])})):
        sheet.note(
            f"a team of {named}, {what}", lambda h=how: slow_down(shop, networks, stored.key, gate, name="", **h)
        )
    deployed = Deployed([Member(network) for network in networks], gate, f"team.1/{stored.key}")
    base = dense_base(shop)[0]
    for repeat in (0, 1):
        for how, said in (("script", ""), ("plain", ", against the plain base")):
            sheet.note(
                f"of {named}, repeat {repeat}{said}",
                lambda r=repeat, h=how: cascades(shop, [deployed], base, 0.5, [r], h),
            )


def _clock(sheet: Sheet, shop: StandInShop, base: torch.nn.Module, base_key: str) -> None:
    reference = signature(base, shop.data.image_shape)
    for size, network in [*known_profiles(shop), (1.0, base)]:
        what = "masked" if size is None else f"{size:g}"
        sheet.note(what, lambda n=network: latency_ratio(shop, n, NoProbe(), reference))


def _tier(sheet: Sheet, spec: Spec, data: Splits, tier: int) -> None:
    """What names an evaluation by `eed-search attack`; the version of torch, which is a part too, is left out."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(int(np.prod(data.image_shape)), 10))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.arange(10.0))
    team = GatedEnsemble([network, network], Gate(0.5)).eval()
    attacks = tier_attacks(team, tier, eps=spec.threat.eps, num_classes=10, seed=spec.seed, base=network)
    described = [canonical_json(one.describe()) if hasattr(one, "describe") else one.name for one in attacks]
    sheet.add(f"of tier {tier}", "attacks", digest(described))
    sheet.add("a team's", "weights", team_key(team, data.validation))
    sheet.add("of a split", "images", split_key(data.validation))


class NoProbe:
    """Says where it stands, and is never asked."""

    machine = "some machine"

    def measure(self, onnx: bytes) -> RatioEstimate:
        """Fail: the store has every measurement."""
        raise AssertionError("measured")


def _plans(sheet: Sheet, shop: StandInShop) -> Iterator[MemberPlan]:
    """Every kind of member that the space names, and the second of its kind in one team."""
    space = shop.spec.search.space
    kinds = [
        MemberChoice(str(score), float(size), str(method))
        for method in _values(space.method)
        for score in _values(space.score)[: None if is_scored(str(method)) else 1]
        for size in _values(space.size)
    ]
    for subsets in _values(space.subsets):
        for recovery in _values(space.recovery):
            for kind in kinds:
                yield from plan_members([kind, kind], subsets, recovery)  # type: ignore[arg-type]


def _title(plan: MemberPlan) -> str:
    return f"{plan.choice.title()} {plan.subsets} {plan.recovery}, part {plan.part}, copy {plan.copy}"


def _values(dimension: Dimension) -> list[str | int | float]:
    return list(dimension.values) if isinstance(dimension, Choice) else [dimension.low]


def _weights(model: Model, data: Splits) -> Artifact:
    arrays = to_arrays(Member(build_for(model, data)))
    return Artifact({name: tensor.detach().numpy() for name, tensor in arrays.items()})


def _measured(data: Splits) -> dict[str, Artifact]:
    """What stages give that train nothing: all images right, all times equal."""
    right, run = np.ones(NUM_IMAGES, bool), np.ones(NUM_IMAGES, np.int64)
    one = Interval(1.0, 1.0, 1.0)
    names = ("clean_right", "robust_right", "executed_right")
    arrays = dict.fromkeys(names, right) | dict.fromkeys(("members_run", "attacked_run"), run)
    return {
        "judgement": Artifact(arrays, {"attack": ""}),
        "slowdown": Artifact({"run": run, "swept_run": run[None]}, {"attack": ""}),
        "crafted": Artifact({"images": data.validation.images.numpy()}),
        "transfer": Artifact({"failed": right}),
        "latency": Artifact(meta={"estimate": asdict(RatioEstimate(one, 1.0, 1.0, False, 3, 100, one, (1.0,)))}),
        "cascade": Artifact(meta=to_json(Latency(one, None, None, 1.0, one, 1.0, "cascade"))),
    }


# ---------------------------------------------------------------- a benchmark


def _benchmark(sheet: Sheet, store: Recording, spec: Any, data: Splits) -> None:
    bench = Bench(spec, spec.seeds[0], data, store, torch.device("cpu"), lambda text: None)
    right, labels = np.ones(NUM_IMAGES, bool), data.test.labels.numpy()
    store.artifacts |= {
        "benchmark_inputs": Artifact({"images": data.test.images.numpy(), "right": right}, {"sha256": "", "l2": None}),
        "benchmark_replay": Artifact({"static": right, "adaptive": right}, {"l2": None}),
        "benchmark_reference": Artifact(meta=asdict(Interval(1.0, 1.0, 1.0))),
        "benchmark_latency": Artifact(meta={"ratio": asdict(Interval(1.0, 1.0, 1.0)), "noisy": False}),
    }
    for model in spec.models:
        weights = _weights(model, data).tensors
        artifact = Artifact(weights | {"labels": labels}, {"left_dense": []})
        store.artifacts |= dict.fromkeys(("benchmark_base", "benchmark_network"), artifact)
        label = model_label(model)
        base = sheet.note(label, lambda m=model: bench.base(m))
        networks = [
            sheet.note(f"{label} {choice.title}", lambda m=model, c=choice, b=base: bench.pruned(m, c, b))
            for choice in choices(spec)
        ]
        for case in spec.cases():
            what = f"{label} {case.label}"
            crafted = sheet.note(what, lambda b=base, c=case: bench.crafted(b, c))
            sheet.note(what, lambda n=networks[0], f=crafted, c=case: bench.replayed(n, f, c))
        sheet.note(label, lambda n=networks[0], b=base: bench.timed(n, b))


def main() -> None:
    """Write the file; images that are not there keep their key."""
    before = json.loads(KEYS.read_text(encoding="utf-8")) if KEYS.exists() else {"data": {}}
    there = {name: data_keys(name) for name, folder in DATA.items() if folder is None or folder.is_dir()}
    found: dict[str, dict[str, str]] = {"data": before["data"] | there}
    with tempfile.TemporaryDirectory() as folder:
        found |= {name: keys_of(name, Path(folder))[0] for name in space_names()}
    KEYS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{KEYS.name}: {sum(map(len, found.values()))} keys")


if __name__ == "__main__":
    main()
