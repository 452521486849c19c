"""The page on the attacks says what runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[3] / "docs" / "attacks.md"


def test_the_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    """One after another, as a reader would."""
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) == 2
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "certified" in printed
    assert "robust" in printed
    assert "members run" in printed
