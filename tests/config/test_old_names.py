"""Old names of files and JSON still work; what a person wrote by one is told the new one, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eed_search.config.loader import Override, load, parse
from eed_search.config.old_names import FIELDS, with_old_fields
from eed_search.core.errors import SpecError
from tests.cli.calling import call

FILE = {"name": "mine", "threat": {"eps": 0.1}}


def _file(folder: Path, **sections: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(FILE | sections))
    return path


def test_a_section_by_its_old_name_is_read_and_says_the_new_one(tmp_path: Path) -> None:
    notes: list[str] = []
    spec = load(_file(tmp_path, controls={"sizes": [0.5]}), note=notes.append)
    assert spec.baselines.sizes == (0.5,)
    assert notes == ["mine.yaml: controls is called baselines now; the old name goes with version 1"]


def test_an_override_by_the_old_name_reaches_the_new_section(tmp_path: Path) -> None:
    """Whatever the file itself calls it."""
    notes: list[str] = []
    override = Override.parse("controls.sizes=[0.25]")
    for name in ("controls", "baselines"):
        spec = load(_file(tmp_path, **{name: {"sizes": [0.5]}}), [override], notes.append)
        assert spec.baselines.sizes == (0.25,)
    assert notes[-1] == "--set controls.sizes: controls is called baselines now; the old name goes with version 1"


def test_a_section_under_both_names_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, controls={"sizes": []}, baselines={"sizes": []})
    with pytest.raises(SpecError) as caught:
        load(path)
    assert caught.value.problems == [
        "mine.yaml: controls: is the old name of baselines, which is there too; keep baselines alone"
    ]


def test_a_stored_file_of_before_is_read_without_a_word() -> None:
    """A run keeps its file with every default; a person did not write that one."""
    stored = parse(FILE, "stored").to_plain()
    stored["controls"] = stored.pop("baselines")
    assert parse(stored, "stored") == parse(FILE, "stored")


def test_a_mistake_below_the_old_name_is_told_by_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"baselines\.sizes\[0\]: 2 is outside the allowed 0\.\.1"):
        load(_file(tmp_path, controls={"sizes": [2.0]}))


def test_check_tells_the_new_name(tmp_path: Path) -> None:
    result = call("check", _file(tmp_path, controls={"sizes": []}))
    assert result.exit_code == 0, result.output
    assert "controls is called baselines now" in result.output


@given(
    st.recursive(
        st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FIELDS, "id", "value"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_old_fields_say_what_the_new_ones_say(value: object) -> None:
    """At every depth; what has no old name is as it was."""

    def check(old: object, new: object) -> None:
        if isinstance(new, dict) and isinstance(old, dict):
            assert {key for key in old if key not in new} == {FIELDS[key] for key in new if key in FIELDS}
            for key, one in new.items():
                check(old[key], one)
                if key in FIELDS:
                    assert old[FIELDS[key]] == old[key]
        elif isinstance(new, list) and isinstance(old, list):
            assert len(old) == len(new)
            for one, other in zip(old, new, strict=True):
                check(one, other)
        else:
            assert old == new

    facts = {"frontier": value}
    copied = with_old_fields(facts)
    check(copied, facts)
    json.dumps(copied)
