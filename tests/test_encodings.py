"""Text in files and from processes is read and written as UTF-8, whatever the locale: each place says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.cli.calling import ROOT

_TEXT = {"read_text", "write_text", "NamedTemporaryFile", "TemporaryFile"}


def unsaid(tree: ast.AST) -> Iterator[int]:
    """List the lines of calls that leave the encoding to the locale."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        keywords = {word.arg: word.value for word in call.keywords}
        constants = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if "encoding" in keywords:
            continue
        if isinstance(text := keywords.get("text", keywords.get("universal_newlines")), ast.Constant) and text.value:
            yield call.lineno
        elif name in ("read_text", "write_text"):
            if len(constants) < (2 if name == "write_text" else 1):
                yield call.lineno
        elif name in ("open", "fdopen") and (modes := [one for one in constants if set(one) <= set("rwaxbt+")]):
            if not any("b" in mode for mode in modes):
                yield call.lineno
        elif (
            (name in _TEXT and isinstance(mode := keywords.get("mode"), ast.Constant) and "b" not in str(mode.value))
            or name == "FileHandler"
            or (name == "open" and isinstance(call.func, ast.Name) and len(call.args) == 1)
        ):
            yield call.lineno


def test_the_package_names_its_encodings() -> None:
    """No file of it depends on the locale of who runs it."""
    found = {
        f"{file.relative_to(ROOT)}:{line}"
        for file in (ROOT / "eed_search").rglob("*.py")
        for line in unsaid(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert found == set()
