"""What is printed cannot steer a terminal."""

from __future__ import annotations

import json

import pytest

from eed_search.core.texts import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\u001b[2J"),
        ("\x9b31m\x7f\x00", r"\u009b31m\u007f\u0000"),
        ("a\rb\x08", r"a\u000db\u0008"),
        ("\u202etxt\u2066", r"\u202etxt\u2066"),
        ("two\nlines\tand ± ε 漢字 \u00a0 🙂", "two\nlines\tand ± ε 漢字 \u00a0 🙂"),
    ],
)
def test_what_steers_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_json_means_the_same_afterwards() -> None:
    plain = {"\x1b": ["\x7f\x9b\u202e", 'quoted "\\ text']}
    assert json.loads(visible(json.dumps(plain, ensure_ascii=False, indent=1))) == plain
