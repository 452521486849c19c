"""How the house is built: `benchmarks/house.py` measures it, and what is reached stays so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import house
from benchmarks.house import measure
from tests.cli.calling import ROOT, python

HERE = measure()


def test_no_two_modules_import_each_other() -> None:
    """Not even inside functions."""
    assert HERE.cycles == []


def test_nothing_grows_beyond_what_a_reader_holds() -> None:
    """No function of more than 60 lines, no module of more than 450 but for the runtime, which ships alone."""
    assert HERE.long_functions == {}
    assert HERE.long_modules == {}


def test_what_every_room_shares_is_small() -> None:
    assert HERE.files["eed_search.core"] <= 10


def test_the_light_commands_load_neither_torch_nor_ray(tmp_path: Path) -> None:
    """Nor MLflow: who asks for help or a report does not wait for them."""
    for words in (["--help"], ["check", "digits"], ["report", "--home", "none"]):
        code = (
            "import sys, json; from eed_search.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "print(json.dumps([name for name in ('torch', 'ray', 'mlflow', 'optuna') if name in sys.modules]))"
        )
        done = python(code, *words, cwd=tmp_path)
        assert json.loads(done.stdout.splitlines()[-1]) == [], words


def test_cycles_long_functions_and_arrows_are_found(tmp_path: Path) -> None:
    """In a package made for it: a cycle through a function, an import for types alone, a function of 61 lines."""
    package = tmp_path / "eed_search"
    for name in ("one", "two"):
        (package / name).mkdir(parents=True)
    (package / "one" / "a.py").write_text("from eed_search.two import b\n")
    (package / "two" / "b.py").write_text("def late():\n    from eed_search.one.a import b\n")
    (package / "two" / "c.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from eed_search.one import a\n"
        "def long():\n" + "    pass\n" * 60
    )
    found = measure(package)
    assert found.cycles == [["eed_search.one.a", "eed_search.two.b"]]
    assert found.arrows == {"eed_search.one": ["eed_search.two"], "eed_search.two": ["eed_search.one"]}
    assert found.long_functions == {"eed_search.two.c:long": 61}
    assert found.files == {"eed_search.one": 1, "eed_search.two": 2}


def test_it_prints_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert house.main([]) == 0
    said = capsys.readouterr().out
    assert f"{HERE.num_files} files" in said
    assert "import cycles: 0" in said
    assert (ROOT / "eed_search").is_dir()
