"""The page on the attacks says what runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[3] / "docs" / "attacks.md"


def test_the_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    torch.manual_seed(0)
    exec(compile(snippet, str(PAGE), "exec"), {})
    printed = capsys.readouterr().out
    assert "robust" in printed
    assert "members run" in printed
