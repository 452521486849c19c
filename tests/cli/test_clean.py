"""`eed-search clean`: the plan, what it frees, and what it never touches."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from eed_search.config.spec import Spec, Threat
from eed_search.core.errors import RunError
from eed_search.runs.home_lock import alone, in_use
from eed_search.runs.ledger import FILE_NAME, RunView
from eed_search.runs.records import Reference
from eed_search.runs.run_folder import claim
from eed_search.runs.run_lock import driving
from eed_search.storage.store import Artifact, StageUse, Store
from tests.cli.calling import call
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_measurement, make_trial, make_view
from tests.waiting import until


def make(store: Store, stage: str, **settings: object) -> str:
    """Make a small artifact; gives its key."""
    return store.get(stage, settings, lambda seed: Artifact({"a": np.zeros(100)})).key


class Home:
    """A home with one finished search, and what it needs and does not need in its store."""

    def __init__(self, path: Path, state: str = "finished") -> None:
        self.path = path
        self.store = Store(path / "store")
        self.base = make(self.store, "base.1", seed=0)
        self.scores = make(self.store, "scores.1", base=self.base)
        self.member = make(self.store, "member.1", base=self.base, scores=self.scores)
        self.team = make(self.store, "team.1", members=[self.member])
        self.judged = make(self.store, "judgement.2", networks=self.team)
        self.timed = make(self.store, "latency.5", architecture="x" * 32)
        self.other_base = make(self.store, "base.1", seed=1)
        self.other_member = make(self.store, "member.1", base=self.other_base)
        self.other_judged = make(self.store, "judgement.2", networks=self.other_member)
        self.unnamed = make(self.store, "member.1", base=self.base, seed=9)
        view = make_view(0)
        view.state = state
        view.base = Reference("dense base", make_measurement(0.8, 1.0, artifact=f"base.1/{self.base}"), 1.0)
        use = StageUse("member.1", self.member, False, 1.0)
        team = make_measurement(0.7, 0.5, artifact=f"team.1/{self.team}")
        view.trials = {0: make_trial(0, stages=(use,), measurement=team)}
        view.proposals = {0: view.trials[0].params}
        self.view: RunView = view
        write_ledger(path / "s", view)

    def artifacts(self) -> set[str]:
        """Name the artifacts that are there."""
        return {path.name for path in (self.path / "store").glob("*.*/*") if re.fullmatch("[0-9a-f]{32}", path.name)}

    @property
    def needed(self) -> set[str]:
        """Name those that the search needs."""
        return {self.base, self.scores, self.member, self.team, self.judged, self.timed}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """One home."""
    return Home(tmp_path / "home")


def clean(home: Home, *more: str) -> str:
    """Clean it; gives what is printed."""
    done = call("clean", "--home", home.path, *more)
    assert done.exit_code == 0, done.output
    return done.output


def files(path: Path) -> set[str]:
    """Name every file below a folder; locks that looking takes are not counted."""
    return {str(one.relative_to(path)) for one in path.rglob("*") if not one.name.endswith((".lock", "-wal", "-shm"))}


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_the_plan_frees_nothing(home: Home, more: tuple[str, ...]) -> None:
    """It says what the home holds, by run and stage, and what can go."""
    before = files(home.path)
    said = clean(home, *more)
    assert files(home.path) == before
    assert re.search(r"^  s +finished: ledger [\d.]+ [kM]B", said, re.MULTILINE)
    assert re.search(r"^  store/member\.1 +3 artifacts, ", said, re.MULTILINE)
    assert "base.1: artifacts that no search names: 1, " in said
    assert "member.1: artifacts that no search names: 2, " in said
    assert f"Nothing was freed; `eed-search clean --yes --home {home.path}` frees " in said


def test_what_a_search_needs_stays(home: Home) -> None:
    """What it names, what that was made from, what was measured on it; the rest goes, and then nothing is left to free."""
    assert "Freed " in clean(home, "--yes")
    assert home.artifacts() == home.needed
    assert "Nothing can be freed" in clean(home, "--yes")


def test_a_search_that_is_not_finished_keeps_all_that_was_made_from_its_base(tmp_path: Path) -> None:
    """A trial that was under way had finished stages, which no event names yet."""
    home = Home(tmp_path / "home", state="stopped")
    (home.path / "store" / "unfinished").mkdir()
    half = home.path / "store" / "unfinished" / f"{'a' * 32}.safetensors"
    half.write_bytes(b"half")
    clean(home, "--yes")
    assert home.artifacts() == {*home.needed, home.unnamed}
    assert half.exists()


def test_what_else_lies_about_goes(home: Home) -> None:
    """Altered artifacts, halves, Ray's notes, temporary files of processes that were killed."""
    stage = home.path / "store" / "member.1"
    gone = [
        stage / f"{home.member}.altered-1",
        stage / f".{home.member}.abcdefgh",
        home.path / "s" / "ray",
        home.path / "s" / "ray-2",
    ]
    for folder in gone:
        (folder / "inside").mkdir(parents=True)
        (folder / "inside" / "file").write_bytes(b"x" * 1000)
    for file in (home.path / ".mlflow-for-s.db", home.path / "s" / ".search_space.yaml.abcdefgh"):
        file.write_bytes(b"x")
        gone.append(file)
    clean(home, "--yes")
    assert [path for path in gone if path.exists()] == []


def test_what_is_not_known_is_left_alone_and_named(home: Home, tmp_path: Path) -> None:
    """Files of the user, and every link, wherever it leads."""
    outside = tmp_path / "outside"
    (outside / ("b" * 32)).mkdir(parents=True)
    (outside / ("b" * 32) / "precious").write_bytes(b"x")
    (home.path / "notes.txt").write_text("mine")
    (home.path / "mine").mkdir()
    (home.path / "store" / "mine").mkdir()
    (home.path / "store" / "member.1" / "README").mkdir()
    (home.path / "link").symlink_to(outside)
    (home.path / "store" / "linked.1").symlink_to(outside)
    (home.path / "store" / "member.1" / ("b" * 32)).symlink_to(outside / ("b" * 32))
    (home.path / "s" / "ray").symlink_to(outside)
    said = clean(home, "--yes")
    assert (outside / ("b" * 32) / "precious").exists()
    assert os.path.lexists(home.path / "s" / "ray")
    for name in ("notes.txt", "mine", "link (a link)", "store/mine", "store/member.1/README"):
        assert name in said
        assert os.path.lexists(home.path / name.removesuffix(" (a link)"))


def test_a_link_inside_of_what_goes_is_not_followed(home: Home, tmp_path: Path) -> None:
    """It goes itself; what it leads to stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    (home.path / "store" / "member.1" / home.unnamed / "link").symlink_to(outside)
    clean(home, "--yes")
    assert home.unnamed not in home.artifacts()
    assert (outside / "precious").exists()


@pytest.mark.parametrize("how", ["damaged", "deleted", "begun"])
def test_a_ledger_that_cannot_be_read_keeps_the_whole_store(home: Home, how: str) -> None:
    """Nobody knows what it names; the plan says so."""
    before = home.artifacts()
    other = home.path / "t"
    if how == "begun":
        other.mkdir()
        (other / "search_space.yaml").write_text("name: t\n")
    else:
        shutil.copytree(home.path / "s", other)
        if how == "damaged":
            (other / FILE_NAME).write_bytes(b"no database")
        else:
            (other / FILE_NAME).unlink()
    said = clean(home, "--yes")
    assert home.artifacts() == before
    assert "nothing that may be in use is freed from the store: " in said
    assert (f"`eed-search recover {other}`" in said) == (how != "begun")


def test_a_bundle_in_the_home_keeps_what_it_names(home: Home) -> None:
    """As does a benchmark's folder."""
    for name, sign, key in (("b", "manifest.json", home.unnamed), ("c", "benchmark.yaml", home.other_member)):
        (home.path / name).mkdir()
        (home.path / name / sign).write_text("{}")
        (home.path / name / "claims.json").write_text(f'{{"artifact": "member.1/{key}"}}')
    clean(home, "--yes")
    assert home.artifacts() == {*home.needed, home.unnamed, home.other_member, home.other_base, home.other_judged}


def test_a_search_that_runs_keeps_everybody_out(home: Home) -> None:
    """Also one of a version that knows only its own lock."""
    before = files(home.path)
    with driving(home.path / "s"):
        done = call("clean", "--home", home.path, "--yes")
    assert done.exit_code == 7
    assert "is in use by a search" in done.output
    from filelock import FileLock

    with FileLock(home.path / "s" / "driver.lock"):
        done = call("clean", "--home", home.path, "--yes")
    assert done.exit_code == 7
    assert "still runs" in done.output
    assert files(home.path) - before == {"s/driver.json"}


def test_no_search_begins_while_a_home_is_cleaned(home: Home) -> None:
    """Who launches, resumes or attacks is told so, and leaves nothing."""
    before = files(home.path)
    spec = Spec(name="new", threat=Threat(eps=0.1))
    with alone(home.path):
        with pytest.raises(RunError, match="is being cleaned"):
            claim(home.path, spec, "new")
        with pytest.raises(RunError, match="is being cleaned"), driving(home.path / "s"):
            pass
    assert files(home.path) == before


def test_many_search_at_once_and_one_cleans(home: Home) -> None:
    """The lock goes with its holder."""
    with in_use(home.path), in_use(home.path):
        pass
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # holds it until it is killed
        with alone(home.path):
            os.write(write, b"x")
            signal.pause()
        os._exit(0)
    assert os.read(read, 1) == b"x"
    os.kill(child, 9)
    os.waitpid(child, 0)
    until(lambda: "finished" in clean(home))


def test_a_home_that_is_none_is_one_error(tmp_path: Path) -> None:
    """Nothing is made."""
    done = call("clean", "--home", tmp_path / "none")
    assert done.exit_code == 7
    assert list(tmp_path.iterdir()) == []
