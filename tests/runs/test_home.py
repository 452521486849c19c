"""Which folders can hold searches, and which addresses mean the folder that they seem to mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from eed_search.core.errors import SpecError
from eed_search.runs.home import check_home
from eed_search.storage.shared_storage import Storage, url_problem

WRONG = ["a?b", "a%20b", "a%3fb", "a\nb", "a\tb", "a\x7fb", "a\x1bb", "a\0b", "a\udcffb"]
ODD = [
    "a b",
    "a'b\"c",
    "a;b",
    "a#b",
    "a&b=c",
    "über",
    "日本",
    "a\\b",
    "a:b",
    "[a]{b}",
    "@a",
    "a+b",
    "100%",
    "%",
    "a%zz",
]


@pytest.mark.parametrize("name", WRONG)
def test_a_home_that_libraries_read_as_another_is_refused(tmp_path: Path, name: str) -> None:
    """Wherever in the path it stands; the message is one printable line that says what is wrong and what to do."""
    with pytest.raises(SpecError) as caught:
        check_home(tmp_path / name / "runs")
    (problem,) = caught.value.problems
    assert problem.isprintable()
    assert problem.startswith("--home '")
    assert problem.endswith("choose another --home (or EED_SEARCH_HOME)")


@pytest.mark.parametrize("name", ODD)
def test_a_home_with_other_characters_is_taken(tmp_path: Path, name: str) -> None:
    """They mean themselves in every address."""
    assert check_home(tmp_path / name / "runs") == tmp_path / name / "runs"


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    """Libraries get the resolved path."""
    (tmp_path / "a?b").mkdir()
    (tmp_path / "fine").symlink_to(tmp_path / "a?b")
    with pytest.raises(SpecError, match="question mark"):
        check_home(tmp_path / "fine")


@pytest.mark.parametrize("end", ["?b", "#b", " b", "ü", '"b', "\nb", "?b=c"])
def test_storage_that_would_lie_elsewhere_is_refused(end: str) -> None:
    """Before anything is written: pyarrow would cut the path off, or not read it."""
    assert "%" in url_problem(f"file:///mnt/a{end}")


def test_an_escaped_address_means_the_folder(tmp_path: Path) -> None:
    """As the refusal advises."""
    folder = tmp_path / "a?b #c ü"
    storage = Storage(folder.as_uri())
    storage.write("x/y", b"z")
    assert (folder / "x" / "y").read_bytes() == b"z"
