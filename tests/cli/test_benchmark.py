"""`eed-search benchmark` as a user calls it: files, MLflow, JSON, going on, and bad input."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from eed_search.core.failpoints import VARIABLE
from eed_search.tracking.mlflow_runs import PARENT_TAG
from eed_search.tracking.mlflow_store import connect, database_uri
from tests.cli.calling import ROOT, call, environment, python
from tests.waiting import HANGS_S

TINY = """
name: tiny
seeds: [0]
data: {num_train: 300, num_test: 30}
models: [{name: small_cnn, width: 8}]
schemes: [l1_filter]
ratios: [0.5]
finetuned: [false]
attacks: [fgsm, {name: deepfool, steps: 5}]
eps: [0.1]
base: {epochs: 4, batch_size: 50}
latency: null
threads: 1
device: cpu
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the tiny benchmark's file beside it."""
    made = tmp_path_factory.mktemp("benchmark")
    (made / "tiny.yaml").write_text(TINY)
    return made


def _benchmark(folder: Path, *more: object) -> Result:
    return call("benchmark", folder / "tiny.yaml", "--home", folder / "home", *more)


@pytest.fixture(scope="module")
def done(folder: Path) -> Result:
    """The tiny benchmark, run once."""
    return _benchmark(folder)


def test_it_ends_with_a_verdict_and_says_where_the_rest_lies(done: Result, folder: Path) -> None:
    """Progress, verdict, means, paths, all within 80 columns but for the paths."""
    assert done.exit_code == 0, done.output
    assert "1 of 1: small_cnn-8 seed 0 l1_filter 50 %: clean" in done.stdout
    assert "static, without fine-tuning: " in done.stdout.replace("\n  ", " ")
    table = done.stdout.partition("Means over")[2]
    assert max(len(line) for line in table.splitlines() if str(folder) not in line) <= 80
    for name in ("results.md", "results.csv", "heatmap.html", "heatmap-small_cnn-8.png"):
        assert (folder / "home" / "tiny" / name).is_file()


def test_mlflow_has_a_parent_and_a_run_for_each_network(done: Result, folder: Path) -> None:
    """Closed, with metrics, verdict and files; run again, nothing is doubled."""
    assert _benchmark(folder).exit_code == 0
    client = connect(database_uri(folder / "home"))
    experiment = client.get_experiment_by_name("eed-search-benchmark")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if run.data.tags["kind"] == "benchmark")
    (child,) = [run for run in runs if run.data.tags.get(PARENT_TAG) == parent.info.run_id]
    assert len(runs) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert child.data.params["scheme"] == "l1_filter"
    assert 0 <= child.data.metrics["static/fgsm 0.1"] <= 1
    assert {"clean_accuracy", "macs", "gap_adaptive/deepfool-5"} <= child.data.metrics.keys()
    assert "static" in parent.data.tags["verdict"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id, "results")}
    assert {"results/results.csv", "results/heatmap.html", "results/results.md"} <= files


def test_json_is_all_there_is_on_stdout(done: Result, folder: Path) -> None:
    """For other programs; what it says stands in results.json too."""
    again = _benchmark(folder, "--json")
    assert json.loads(again.stdout) == json.loads((folder / "home" / "tiny" / "results.json").read_text())
    assert "Benchmarking" in again.stderr


@pytest.mark.slow
def test_cifar10_s_tiny_form_runs(tmp_path: Path) -> None:
    """The shipped file on a handful of random images: two nets, ResNet and VGG, three budgets."""
    rng = np.random.default_rng(0)
    for split, num in (("train", 140), ("test", 12)):
        images = rng.integers(0, 256, (num, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(num) % 10)
    sets = [
        "seeds=[0]", "data.num_train=100", "data.num_test=12", "schemes=[bn_gamma]", "ratios=[0.5]", "base.epochs=0.5",
        "finetune.epochs=0.5", "attacks=[fgsm]", "latency=null", "threads=1",
        "models=[{name: resnet18, width: 4}, {name: vgg16_bn, width: 4}]", "block=1",
    ]  # fmt: skip
    found = call(
        "benchmark", "benchmark_cifar10", "--data", tmp_path, "--home", tmp_path / "home",
        *(part for one in sets for part in ("--set", one)),
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "2 of 2: vgg16_bn-4 seed 0 bn_gamma 50 % tuned" in found.stdout


@pytest.mark.parametrize(
    ("sets", "code", "said"),
    [
        (["ratios=[1.5]", "schemes=[l3]"], 3, "ratios[0]: 1.5 is outside the allowed 0..1 without 1"),
        (
            ["models=[{name: vgg16_bn, width: 8}]"],
            5,
            "vgg16_bn shrinks images 32-fold and learns from 32×32 and larger, these are 8×8",
        ),
        (["block=64"], 5, "every layer is within one block of 64"),
        (["margin=0.1"], 7, "holds a benchmark of other settings"),
    ],
)
def test_bad_input_is_one_clear_message(done: Result, folder: Path, sets: list[str], code: int, said: str) -> None:
    """With the exit code of its kind, and no trace of Python."""
    name = "tiny" if sets == ["margin=0.1"] else "wrong"
    found = _benchmark(folder, "--name", name, *(part for one in sets for part in ("--set", one)))
    assert found.exit_code == code, found.output
    assert said in found.stderr
    assert "Traceback" not in found.stderr


def test_the_wrong_command_says_which_is_right() -> None:
    """A search-space file is launched, a benchmark file is benchmarked."""
    found = call("benchmark", "digits")
    assert (found.exit_code, "run `eed-search launch" in found.stderr) == (3, True)
    found = call("launch", "benchmark_digits")
    assert (found.exit_code, "run `eed-search benchmark" in found.stderr) == (3, True)


def test_help_loads_no_torch() -> None:
    """Nor NumPy."""
    code = (
        "import sys; from typer.testing import CliRunner; from eed_search.cli.app import app;"
        "done = CliRunner().invoke(app, ['benchmark', '--help']);"
        "print(done.exit_code, '--json' in done.stdout, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    assert python(code).stdout == "0 True False False\n"


@pytest.mark.slow
def test_killed_and_called_again_it_gives_the_same_table(tmp_path: Path) -> None:
    """SIGKILL after two of four networks; the package is a copy, so that an edit meanwhile changes nothing."""
    shutil.copytree(ROOT / "eed_search", tmp_path / "copy" / "eed_search")
    text = TINY.replace("[false]", "[false, true]").replace("[0.5]", "[0, 0.5]")
    (tmp_path / "tiny.yaml").write_text(text)

    def start(home: str, **more: str) -> int:
        command = [sys.executable, "-m", "eed_search.cli", "benchmark", "tiny.yaml", "--home", home]
        paths = {"PYTHONPATH": str(tmp_path / "copy"), **more}
        return subprocess.run(
            command, cwd=tmp_path, env=environment(**paths), capture_output=True, timeout=HANGS_S
        ).returncode

    assert start("undisturbed") == 0
    assert start("killed", **{VARIABLE: "benchmark.network:kill:2"}) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "tiny" / "results.csv").exists()
    assert start("killed") == 0
    for name in ("results.csv", "results.json", "results.md"):
        tables = [(tmp_path / home / "tiny" / name).read_bytes() for home in ("undisturbed", "killed")]
        assert tables[0] == tables[1], name
