"""The sections of a search-space file: their defaults, the forms of a dimension, and that they stay as checked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from eed_search.config.spec import Choice, Range, Space, Spec, Threat


def test_only_name_and_eps_have_no_default() -> None:
    """Everything else has a default."""
    spec = Spec(name="t", threat=Threat(eps=0.1))
    assert (spec.name, spec.threat.eps, spec.data.source, spec.search.trials) == ("t", 0.1, "digits", 16)


def test_a_dimension_is_one_value_a_list_or_a_range() -> None:
    """The three forms of a dimension."""
    space = Space.model_validate({"size": 0.5, "score": ["nis", "erm"], "beta": {"low": 1e-3, "high": 1, "log": True}})
    assert space.size == Choice(values=(0.5,))
    assert space.score == Choice(values=("nis", "erm"))
    assert space.beta == Range(low=0.001, high=1.0, log=True)


def test_a_spec_is_frozen() -> None:
    """What was checked stays as it was checked."""
    spec = Spec(name="t", threat=Threat(eps=0.1))
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 3  # type: ignore[misc]


def test_the_plain_form_writes_one_value_and_a_list_as_a_file_would() -> None:
    """A fixed dimension is its value, several are a list, a range is its keys."""
    space = Space.model_validate({"size": 0.5, "score": ["nis", "erm"], "beta": {"low": 0.1, "high": 1}})
    plain = Spec.model_validate({"name": "t", "threat": {"eps": 0.1}, "search": {"space": space}}).to_plain()
    written = plain["search"]["space"]
    assert (written["size"], written["score"]) == (0.5, ["nis", "erm"])
    assert written["beta"] == {"low": 0.1, "high": 1.0, "log": False, "step": None}
