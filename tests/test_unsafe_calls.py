"""What could run a stranger's code is called nowhere in the package, but for what is written down here.

Ruff's S rules hold most of it; they know neither Ray's and joblib's picklers nor the arguments that make a call safe.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import eed_search

PACKAGE = Path(eed_search.__file__).parent
ALLOWED = {
    ("tune/study_searcher.py", "pickle.loads"),  # the searcher's own checkpoint, as the module says
    ("config/plugins.py", "exec"),  # code that the user's own file names under `plugins:`
    ("config/plugins.py", "compile"),
}
PICKLERS = (
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "ray.cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
)
NEVER = {
    "eval", "exec", "compile", "os.system", "os.popen", "os.popen2", "commands.getoutput", "subprocess.getoutput",
    "subprocess.getstatusoutput", "tempfile.mktemp", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all",
    "yaml.full_load_all", "yaml.load_all", "pandas.read_pickle", "numpy.lib.format.read_array_pickled", "shelve.open",
    "torch.jit.load", "torch.package.PackageImporter",
} | {f"{module}.{name}" for module in PICKLERS for name in ("load", "loads", "Unpickler", "decode")}  # fmt: skip
OUR_LOADERS = {"UniqueKeyLoader", "_Loader"}  # of YAML: both are safe


def _names(tree: ast.AST) -> dict[str, str]:
    """What each name that is imported anywhere in a file stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            found |= {
                alias.asname or alias.name: f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names
            }
    return found


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return ""


def unsafe_calls(text: str) -> Iterator[tuple[int, str]]:
    """Find line and name of each call that could run what it is given."""
    tree = ast.parse(text)
    names = _names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _dotted(node.func, names)
        given = {one.arg: one.value for one in node.keywords}
        is_true = {name for name, value in given.items() if isinstance(value, ast.Constant) and value.value is True}
        loader = given.get("Loader")
        if (
            called.removeprefix("builtins.") in NEVER
            or (called == "torch.load" and "weights_only" not in is_true)
            or (called == "yaml.load" and not (isinstance(loader, ast.Name) and loader.id in OUR_LOADERS))
            or "allow_pickle" in is_true
            or "shell" in is_true
            or (called.endswith((".extractall", ".extract")) and "filter" not in given)
        ):
            yield node.lineno, called


def test_nothing_is_called_that_could_run_what_it_reads() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), called)
        for path in PACKAGE.rglob("*.py")
        for _, called in unsafe_calls(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "import pickle; pickle.loads(x)",
        "import pickle as p; p.load(x)",
        "from pickle import loads as read; read(x)",
        "import ray.cloudpickle; ray.cloudpickle.loads(x)",
        "from ray import cloudpickle; cloudpickle.loads(x)",
        "import torch; torch.load(x)",
        "import torch; torch.load(x, weights_only=False)",
        "import numpy as np; np.load(x, allow_pickle=True)",
        "import yaml; yaml.load(x)",
        "import yaml; yaml.load(x, Loader=yaml.UnsafeLoader)",
        "import subprocess; subprocess.run(x, shell=True)",
        "import os; os.system(x)",
        "def f():\n    import marshal\n    marshal.loads(x)",
        "eval(x)",
        "archive.extractall(x)",
    ],
)
def test_each_kind_is_found(text: str) -> None:
    assert len(list(unsafe_calls(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "import torch; torch.load(x, weights_only=True)",
        "import numpy as np; np.load(x, allow_pickle=False)",
        "import yaml; yaml.load(x, Loader=UniqueKeyLoader)",
        "import yaml; yaml.safe_load(x)",
        "import re; re.compile(x)",
        "import pickle; pickle.dumps(x)",
        "archive.extractall(x, filter='data')",
    ],
)
def test_what_is_safe_is_not_found(text: str) -> None:
    assert not list(unsafe_calls(text))
