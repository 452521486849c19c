"""Adding one of each kind is one new file and one line of the registry: here from a temporary package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eed_search.compression.contract import Target, Work
from eed_search.compression.methods import method_function
from eed_search.compression.scores import ScoreBatch, score_function
from eed_search.config.loader import parse
from eed_search.config.registry import BUILT_IN, Kind
from eed_search.config.spec import Data, Members, Recipe, TrainingAttack
from eed_search.core.errors import SpecError
from eed_search.data.sources import extent, load_images, readable
from eed_search.data.splits import load_splits
from eed_search.evaluation.attacks import tier_attacks
from eed_search.models import build
from eed_search.search.sampling.samplers import make_sampler

FILES = {
    "score": (
        "loudest",
        """
        from eed_search.compression.scores import weight_layers

        def loudest(model, batch):
            return {f"{name}.weight": layer.weight.detach().abs() for name, layer in weight_layers(model).items()}
        """,
    ),
    "method": (
        "first_channels",
        """
        from eed_search.compression.member import Member

        VERSION = 7

        def first_channels(base, target, work):
            return Member(base)
        """,
    ),
    "model": (
        "one_layer",
        """
        from torch import nn

        class OneLayer(nn.Module):
            def __init__(self, width, num_classes, in_channels, mean, std):
                super().__init__()
                self.first, self.bend = nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()
                self.last = nn.Linear(width, num_classes)

            def forward(self, images):
                return self.last(self.bend(self.first(images)).mean((2, 3)))

        one_layer = OneLayer
        """,
    ),
    "source": (
        "two_greys",
        """
        import numpy as np
        from eed_search.data.images import Images, ImageSets

        def extent(data):
            return 40, 4, 4, 1

        def two_greys(data):
            labels = np.arange(40) % 2
            images = np.repeat(40 * np.arange(40) % 251, 16).reshape(40, 4, 4, 1).astype(np.uint8)
            return ImageSets(Images(images, labels), class_names=("dark", "light"))
        """,
    ),
    "attack": (
        "darkest",
        """
        from eed_search.evaluation.attacks.base import NamedAttack, TeamAttack

        class Darkest(TeamAttack):
            def run(self, images, labels):
                return (images - self.eps).clamp(0, 1)

        def darkest(setup):
            made = Darkest("darker by eps", setup.team, eps=setup.eps, steps=1, restarts=1, seed=setup.seed)
            return NamedAttack("Darkest", "darkest", made)
        """,
    ),
    "sampler": (
        "halton",
        """
        from optuna.samplers import QMCSampler

        def halton(own, search, startup):
            return QMCSampler(qmc_type="halton", seed=search)
        """,
    ),
}


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """One new file of each kind, and its line in the registry; gives the names by kind."""
    package = tmp_path / "eed_more"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    kinds: list[Kind] = ["score", "method", "model", "source", "attack", "sampler"]
    for kind in kinds:
        name, text = FILES[kind]
        (package / f"{name}.py").write_text("\n".join(line[8:] for line in text.splitlines()) + "\n")
        monkeypatch.setitem(BUILT_IN[kind], name, f"eed_more.{name}:{name}")
    yield {kind: FILES[kind][0] for kind in kinds}
    for module in [one for one in sys.modules if one.partition(".")[0] == "eed_more"]:
        del sys.modules[module]


def _file(added: dict[str, str], **changes: str) -> dict[str, Any]:
    names = added | changes
    space = {"score": {"values": [names["score"]]}, "method": {"values": [names["method"]]}}
    return {
        "name": "mine",
        "threat": {"eps": 0.1},
        "data": {"source": names["source"], "path": "."},
        "model": {"name": names["model"], "width": 16},
        "search": {"sampler": names["sampler"], "space": space},
    }


def test_a_file_may_name_them_all(added: dict[str, str]) -> None:
    assert parse(_file(added), "mine").search.sampler == "halton"


@pytest.mark.parametrize("kind", ["score", "method", "model", "source", "sampler"])
def test_a_name_that_is_not_there_is_refused_with_those_that_are(added: dict[str, str], kind: str) -> None:
    with pytest.raises(SpecError, match=rf"'nobody' is not one of .*{added[kind]}"):
        parse(_file(added, **{kind: "nobody"}), "mine")


def test_the_score_is_found_and_works(added: dict[str, str]) -> None:
    model = build("small_cnn", width=8, num_classes=2, in_channels=1, mean=(0.5,), std=(0.5,))
    batch = ScoreBatch(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long), 0.1, TrainingAttack(), 0)
    given = score_function(added["score"])(model, batch)
    assert all(torch.equal(given[name], dict(model.named_parameters())[name].abs()) for name in given)


def test_the_method_is_found_and_its_version_is_part_of_the_key(added: dict[str, str]) -> None:
    from eed_search.compression.methods import key_of

    base = torch.nn.Linear(2, 2)
    assert method_function(added["method"])(base, Target.__new__(Target), Work.__new__(Work)).model is base
    assert key_of(Members(), added["method"]) == {"version": 7}
    assert key_of(Members(), "prune") == {}


def test_the_network_is_built(added: dict[str, str]) -> None:
    model = build(added["model"], width=4, num_classes=3, in_channels=1, mean=(0.5,), std=(0.5,))
    assert model(torch.rand(2, 1, 5, 5)).shape == (2, 3)


def test_the_source_is_read_split_and_measured(added: dict[str, str]) -> None:
    data = Data(source=added["source"], path=".", num_validation=10, num_fresh=10, num_test=10)
    assert (extent(data), readable(data)) == ((40, 4, 4, 1), [])
    assert load_images(data).class_names == ("dark", "light")
    assert len(load_splits(data, 0).train) == 40 - 3 * 10


def test_the_attack_is_part_of_the_union_of_its_tiers(added: dict[str, str]) -> None:
    """It comes last, and what it makes is judged as any other attack's."""
    model = build("small_cnn", width=8, num_classes=2, in_channels=1, mean=(0.5,), std=(0.5,)).eval()
    last = tier_attacks(model, 1, eps=0.1, num_classes=2, seed=0)[-1]
    images = torch.rand(3, 1, 8, 8)
    answers = model(images).argmax(1)
    assert (last.name, len(tier_attacks(model, 0, eps=0.1, num_classes=2, seed=0))) == ("darkest", 1)
    torch.testing.assert_close(last.attack(images, answers), (images - 0.1).clamp(0, 1))


def test_the_sampler_proposes(added: dict[str, str]) -> None:
    import optuna

    study = optuna.create_study(sampler=make_sampler(added["sampler"], 0, 0, 1))
    assert 0 <= study.ask().suggest_float("x", 0, 1) <= 1


def test_no_name_is_in_the_registry_twice_and_all_lead_somewhere() -> None:
    """A key that is written twice is refused by the linter (F601); here that each line leads to code."""
    from eed_search.config.registry import load

    for kind, names in BUILT_IN.items():
        for name in names:
            assert callable(load(kind, name)), (kind, name)
    assert (
        len({place for names in BUILT_IN.values() for place in names.values()}) == sum(map(len, BUILT_IN.values())) - 1
    )


def test_numbers_of_images_are_the_sources_own(added: dict[str, str]) -> None:
    """What a new source gives goes through the same door as any other's."""
    images = load_images(Data(source=added["source"], path=".")).train.images
    assert images.dtype == np.uint8
    assert Recipe(epochs=1).epochs == 1
