"""The documented plugins: short, whole, and run from the file to a measured trial; and what is wrong with others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from eed_search import trial
from eed_search.cluster.where import Place
from eed_search.config import names, plugins
from eed_search.config.loader import Override, load, parse
from eed_search.config.params import MemberChoice, TrialParams
from eed_search.config.plans import plan_members
from eed_search.config.registry import BUILT_IN
from eed_search.config.spec import Spec
from eed_search.core.errors import DataError, ModelError, SpecError
from eed_search.pipeline.context import StageContext
from eed_search.pipeline.training import base_stage, check_sizes, dense_base, member, scores_stage
from eed_search.runs.records import TrialRecord
from eed_search.search import provenance
from eed_search.storage.store import Store
from tests.cli.calling import ROOT, call, python

pytestmark = pytest.mark.usefixtures("forgets_plugins")
DOC = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
TINY = """
    data.num_train=60 data.num_validation=20 data.num_fresh=10 data.num_test=10 model.width=8 base.epochs=1
    base.batch_size=20 base.attack.steps=1 members.block=2 members.score_samples=8 members.finetune.epochs=1
    members.finetune.batch_size=20 members.finetune.attack.steps=1 joint.epochs=0 evaluation.steps=1
    evaluation.slow_down_steps=1 gate.sweep=0
    latency.rounds=3 latency.block_ms=1 controls.sizes=[]
"""
OVERRIDES = [Override.parse(text) for text in TINY.split()]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)


@pytest.fixture
def documented(tmp_path: Path) -> Path:
    """The documented file, with the documented code beside it."""
    (tmp_path / "mine.py").write_text("\n".join(blocks("python")), encoding="utf-8")
    (tmp_path / "digits.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    return tmp_path / "digits.yaml"


def silent(text: str) -> None:
    """Report to nobody."""


def team(*members: MemberChoice) -> TrialParams:
    return TrialParams(members, "all", "labels", "fast_first", 0.0, 0.0, 0.0, 0.5)


def test_a_score_and_a_method_take_at_most_thirty_lines() -> None:
    """As documented, imports included."""
    score, method, _ = blocks("python")
    for block in (score, method):
        assert len([line for line in block.splitlines() if line.strip()]) <= 30


def test_the_documented_plugins_make_a_measured_team(documented: Path, tmp_path: Path) -> None:
    """From the file to a record: a member by the score, one by the method, and their stages in the store."""
    spec = load(documented, OVERRIDES, import_plugins=True)
    assert spec.plugins == (str(tmp_path / "mine.py"),)
    setting = trial.prepare(spec, tmp_path / "store", silent)
    chosen = team(MemberChoice("taylor", 0.5), MemberChoice("taylor", 0.25, "polarise"))
    assert chosen.title() == "taylor-50 polarise-taylor-25"
    record = trial.run(0, chosen, setting, trial.make_probe(setting), silent)
    assert isinstance(record, TrialRecord)
    assert record.outcome == "done", record.message
    assert [use.stage for use in record.stages if not use.hit].count("member.1") == 2
    assert record.measurement is not None
    assert record.measurement.size_bytes < setting.base.measurement.size_bytes


def test_the_documented_network_and_source_are_trained(documented: Path, tmp_path: Path) -> None:
    """The stripes have 400 images of two classes, and the base is the registered network."""
    texts = ["model.name=two_layers", "data.source=stripes"]
    spec = load(documented, [*OVERRIDES, *map(Override.parse, texts)], import_plugins=True)
    shop = StageContext(spec, Store(tmp_path / "store"), silent)
    check_sizes(shop)
    base, _ = dense_base(shop)
    assert (shop.data.num_classes, shop.data.image_shape, len(base)) == (2, (1, 8, 8), 5)  # type: ignore[arg-type]


def test_a_changed_plugin_is_not_taken_for_the_old_one(documented: Path, tmp_path: Path) -> None:
    """Other keys for what uses its names, the same for the rest; and a resume would say which file changed."""

    def keys(spec: Spec) -> tuple[str, str, str]:
        shop = StageContext(spec, Store(tmp_path / "store"), silent)
        stages = (base_stage(shop), scores_stage(shop, "nis"), scores_stage(shop, "taylor"))
        base, nis, taylor = (stage.key(shop.store) for stage in stages)
        return base, nis, taylor

    spec = load(documented, OVERRIDES, import_plugins=True)
    before, files = keys(spec), plugins.files(spec.plugins)
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("(w * g).abs()", "g.abs()"))
    after = keys(spec)
    assert (before[:2], before[2] == after[2]) == (after[:2], False)
    (line,) = provenance.file_drift("plugins", files, plugins.files(spec.plugins))
    assert line == f"plugins: changed: {tmp_path / 'mine.py'}"


def test_a_helper_that_a_plugin_imports_counts_too(tmp_path: Path) -> None:
    """Files of its own folder, packages included; what is installed does not."""
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "__init__.py").write_text("")
    (tmp_path / "kit" / "tools.py").write_text("from .more import X\n")
    (tmp_path / "kit" / "more.py").write_text("X = 1\n")
    (tmp_path / "other.py").write_text("")
    (tmp_path / "mine.py").write_text("import torch\nimport kit.tools\n")
    entry = plugins.resolve("mine.py", tmp_path)
    assert {path.name for path in plugins.sources(entry)} == {"mine.py", "__init__.py", "tools.py", "more.py"}
    before = plugins.digest(entry)
    (tmp_path / "kit" / "more.py").write_text("X = 2\n")
    assert plugins.digest(entry) != before


def test_a_module_beside_the_file_is_found_and_imported(tmp_path: Path) -> None:
    """With its package, and without running it before that."""
    package = tmp_path / "beside_scores"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text(
        "from eed_search import plugins\n\n@plugins.score('beside')\ndef one(model, batch):\n    return {}\n"
    )
    file = tmp_path / "case.yaml"
    file.write_text("name: t\nthreat: {eps: 0.1}\nplugins: [beside_scores.one]\nsearch: {space: {score: beside}}\n")
    assert load(file).plugins == (f"{tmp_path}::beside_scores.one",)
    assert names.find("score", "beside") is None
    load(file, import_plugins=True)
    assert names.find("score", "beside") is not None


def problems(tmp_path: Path, code: str, text: str = "", plugin: str = "mine.py") -> list[str]:
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    file = tmp_path / "case.yaml"
    file.write_text(f"name: t\nthreat: {{eps: 0.1}}\nplugins: [{plugin}]\n{text}", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load(file, import_plugins=True)
    return [line.replace(str(tmp_path), "DIR") for line in caught.value.problems]


HEAD = "from eed_search import plugins\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\n", "DIR/mine.py registers nothing; decorate a function, such as @plugins.score('my_score')"),
        ("x = (\n", "DIR/mine.py, line 1: is not Python ('(' was never closed); correct it"),
        ("\nimport nothing_such\n", "DIR/mine.py, line 2: ModuleNotFoundError: No module named 'nothing_such'; it must be importable by itself"),
        ("import sys\nsys.exit(3)\n", "DIR/mine.py, line 2: SystemExit: 3; it must be importable by itself"),
        (HEAD + "@plugins.score('nis')\ndef f(model, batch): ...\n", "DIR/mine.py, line 2: score 'nis': is built in; choose another name"),
        (HEAD + "@plugins.score('A b')\ndef f(model, batch): ...\n", "DIR/mine.py, line 2: score 'A b': is no name; take a lower-case letter, then letters, digits and underscores, 32 at most"),
        (HEAD + "@plugins.score('s')\ndef f(model): ...\n", "DIR/mine.py, line 2: score 's': is called with (model, batch), but takes (model); change its arguments"),
        (HEAD + "@plugins.score('s')\ndef f(m, b): ...\n@plugins.score('s')\ndef g(m, b): ...\n", "DIR/mine.py, line 4: score 's': is registered by DIR/mine.py, line 2 already; choose another name for one of them"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_plugin_is_said_with_file_and_line(tmp_path: Path, code: str, said: str) -> None:
    """One line, and nothing of a plugin that failed stays registered."""
    assert problems(tmp_path, code) == [f"case.yaml: plugins[0]: {said}"]
    assert not [one for kind in BUILT_IN for one in names.known(kind) if one in ("s", "A b")]


def test_a_plugin_that_is_not_there_is_named_with_the_other_mistakes(tmp_path: Path) -> None:
    """A file, a module; and a wrong key of the file in the same answer."""
    assert problems(tmp_path, "", "seed: -1\n", "no.py, no_such_module") == [
        "case.yaml: plugins[0]: DIR/no.py is no file; give a Python file relative to the search-space file, or a module",
        "case.yaml: plugins[1]: no module no_such_module in DIR nor installed; give a module or a file such as my.py",
        "case.yaml: seed: -1 is outside the allowed 0..2147483647 (seed for splits, training, attacks and proposals)",
    ]


def test_a_name_that_no_plugin_registers_is_refused_with_the_closest(tmp_path: Path) -> None:
    """Registered names are known ones."""
    code = HEAD + "@plugins.score('my_score')\ndef f(model, batch): ...\n"
    text = "search: {space: {score: my_scor}}\nteam: {pool: {scores: [my_score]}}\n"
    assert problems(tmp_path, code, text) == [
        "case.yaml: search.space.score: 'my_scor' is not one of nis, erm, ase, bnsf, my_score; did you mean my_score?"
    ]


def test_check_runs_no_code_unless_asked(documented: Path, tmp_path: Path) -> None:
    """It says so, and what it could not check."""
    trace = tmp_path / "ran"
    with (tmp_path / "mine.py").open("a") as file:
        file.write(f"\nimport pathlib\npathlib.Path({str(trace)!r}).touch()\n")
    said = call("check", documented)
    assert said.exit_code == 0
    assert "not imported, since that runs your code" in said.output
    assert "not checked: method polarise, score taylor" in said.output
    assert not trace.exists()
    asked = call("check", documented, "--plugins")
    assert asked.exit_code == 0
    assert f"{tmp_path / 'mine.py'}: score taylor, method polarise, model two_layers, source stripes" in asked.output
    assert trace.exists()


@pytest.mark.whole
def test_a_dry_run_runs_no_code_unless_asked(documented: Path, tmp_path: Path) -> None:
    """It says what it could not foresee; asked, it imports the code and measures."""
    trace = tmp_path / "ran"
    with (tmp_path / "mine.py").open("a") as file:
        file.write(f"\nimport pathlib\npathlib.Path({str(trace)!r}).touch()\n")
    words = [word for text in TINY.split() for word in ("--set", text)]
    dry = ["launch", documented, "--home", tmp_path / "home", "--dry-run", *words]
    said = call(*dry)
    assert said.exit_code == 0, said.output
    assert (
        "not imported, since that runs your code: `launch --dry-run --plugins` does, and so does a launch"
        in said.output
    )
    assert "no forecast: it would run method polarise, score taylor; `launch --dry-run --plugins` does" in said.output
    plain = json.loads(call(*dry, "--json").stdout)
    assert plain["not_checked"] == ["method polarise", "score taylor"]
    unused = call(*dry, "--set", "search.space.score=[erm]", "--set", "search.space.method=[prune]")
    assert unused.exit_code == 0, unused.output
    assert "time      " in unused.output
    assert not trace.exists()
    asked = call(*dry, "--plugins")
    assert asked.exit_code == 0, asked.output
    assert "time      " in asked.output
    assert trace.exists()


def test_a_launch_takes_no_word_for_consent(documented: Path, tmp_path: Path) -> None:
    """It imports them in any case: the option would mean nothing."""
    done = call("launch", documented, "--home", tmp_path / "home", "--plugins")
    assert done.exit_code == 2
    assert "goes with --dry-run" in done.output


def test_a_run_s_own_file_is_read_without_the_plugin(documented: Path) -> None:
    """A report needs no user code: names were checked when the run was launched."""
    plain = load(documented).to_plain()
    assert parse(plain, "run").search.space.score.values == ("taylor", "nis")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("code", "choice", "said"),
    [
        ("score('bad')\ndef f(model, batch): return {}", MemberChoice("bad", 0.5), r"line 3: score 'bad': gives NoneType for features.0.weight; give a tensor of its shape \(8, 1, 3, 3\)"),
        ("compressor('bad')\ndef f(base, target, work): return base", MemberChoice("erm", 0.5, "bad"), "line 3: method 'bad': gives SmallCNN; give a Member"),
        ("compressor('bad')\ndef f(base, target, work): return Member(torch.nn.Linear(2, 2))", MemberChoice("erm", 0.5, "bad"), "its member is no network of the base's form"),
    ],
)  # fmt: skip
def test_what_a_plugin_gives_is_checked(tmp_path: Path, code: str, choice: MemberChoice, said: str) -> None:
    """At the door, with its file and line, instead of somewhere deep inside."""
    (tmp_path / "mine.py").write_text(
        f"from eed_search import plugins; import torch\nfrom eed_search.compression.member import Member\n@plugins.{code}\n"
    )
    file = tmp_path / "case.yaml"
    file.write_text("name: t\nthreat: {eps: 0.1}\nplugins: [mine.py]\n")
    shop = StageContext(load(file, OVERRIDES, import_plugins=True), Store(tmp_path / "store"), silent)
    (plan,) = plan_members([choice], "all", "labels")
    with pytest.raises(ModelError, match=said):
        member(shop, plan, dense_base(shop)[0])


def test_a_source_that_is_not_imported_here_asks_for_images() -> None:
    """As where a bundle names it: a bundle's settings are no reason to run code."""
    spec = parse({"name": "t", "threat": {"eps": 0.1}, "plugins": ["/no/such.py"], "data": {"source": "theirs"}}, "x")
    from eed_search.data.sources import load_images

    with pytest.raises(DataError, match=r"data\.source: 'theirs' is registered by user code that is not imported here"):
        load_images(spec.data)


def test_a_plugin_that_is_gone_is_said_by_the_worker(documented: Path, tmp_path: Path) -> None:
    """A launched search whose file was moved away since."""
    spec = load(documented, OVERRIDES)
    (tmp_path / "mine.py").unlink()
    with pytest.raises(SpecError, match=r"plugins\[0\]: .*mine\.py is gone; put it back"):
        StageContext(spec, Store(tmp_path / "store"), silent)


@pytest.mark.slow
def test_ray_s_workers_import_the_plugins(documented: Path, tmp_path: Path) -> None:
    """A launch as a user types it: both names do their work in worker processes, and a resume sees an edit."""
    main = "import sys; sys.argv[0] = 'eed-search'; from eed_search.cli import main; main()"
    sets = [*TINY.split(), "search.racing=false", "search.space.num_members=2", "search.space.score=taylor"]
    sets += [
        "latency.final_rounds=3",
        "latency.final_calls=100",
        "latency.final_processes=1",
        "search.space.size=[0.25, 0.5]",
    ]
    words = [word for text in sets for word in ("--set", text)]
    done = python(main, "launch", "digits.yaml", "--trials", 2, "--home", "home", "--name", "one", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "polarise-taylor-" in done.stdout
    assert "2 done" in done.stdout
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# edited\n")
    again = python(main, "resume", "one", "--home", "home", "--trials", 3, cwd=tmp_path)
    assert again.returncode == 7
    assert f"plugins: changed: {tmp_path / 'mine.py'} (" in again.stderr


def test_user_code_is_not_run_where_it_is_sent_from(documented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's head runs it, where its libraries are."""
    monkeypatch.setattr("eed_search.cli.launch.find_place", lambda wish: Place("submit", "a cluster", "http://x"))
    sent: dict[str, bytes] = {}
    monkeypatch.setattr(
        "eed_search.cli.launch.RemoteCluster.drive", lambda self, words, *, name, files: sent.update(files)
    )
    assert call("launch", documented, "--home", "runs").exit_code == 0
    assert names.find("score", "taylor") is None
    (entry,) = yaml.safe_load(sent["search_space.yaml"])["plugins"]
    assert re.fullmatch(r"~/eed-search/runs/\.plugins/[0-9a-f]{32}/mine\.py", entry)
    assert sent[entry.removeprefix("~/eed-search/runs/.")] == (documented.parent / "mine.py").read_bytes()
