"""User code that is sent to a cluster: what travels, where it lies there, and how a node without it gets it."""

from __future__ import annotations

import importlib.util
import marshal
import os
import re
import shutil
import struct
from pathlib import Path

import pytest

from eed_search.config import names, plugins
from eed_search.config.sent_plugins import bring, keep, pack, share
from eed_search.core.errors import SpecError, StoreError
from tests.cli.calling import python

pytestmark = pytest.mark.usefixtures("forgets_plugins")

SCORE = "from eed_search import plugins\nfrom {helper} import made\n\n@plugins.score('{name}')\ndef f(model, batch):\n    return made\n"


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """A folder with a plugin in a file, one in a package, a helper of both, and something that is neither's."""
    folder = tmp_path / "laptop"
    (folder / "ours" / "deep").mkdir(parents=True)
    (folder / "mine.py").write_text(SCORE.format(helper="sent_help", name="sent_one"))
    (folder / "sent_help.py").write_text("made = {}\n")
    (folder / "ours" / "__init__.py").write_text("# Gr\xfc\xdfe\n", encoding="utf-8")
    (folder / "ours" / "deep" / "scores.py").write_text(SCORE.format(helper="sent_help", name="sent_two"))
    (folder / "secret.txt").write_text("stays here")
    return folder


def resolved(laptop: Path) -> list[str]:
    return [plugins.resolve(one, laptop) for one in ("mine.py", "ours.deep.scores")]


def sent(laptop: Path, home: Path, job: Path) -> list[str]:
    """Send both, as a job does; gives their entries there."""
    packed = pack(resolved(laptop), str(home))
    for name, content in packed.files.items():
        (job / name).parent.mkdir(parents=True, exist_ok=True)
        (job / name).write_bytes(content)
    home.mkdir(exist_ok=True)
    keep(job, home)
    return list(packed.entries)


def test_what_they_are_made_of_travels_and_nothing_else(laptop: Path) -> None:
    packed = pack([*resolved(laptop), "json"], "~/runs")
    below = sorted(name.split("/", 2)[2] for name in packed.files)
    assert below == ["mine.py", "ours/__init__.py", "ours/deep/scores.py", "sent_help.py", "sent_help.py"]
    file, module, installed = packed.entries
    assert re.fullmatch(r"~/runs/\.plugins/[0-9a-f]{32}/mine\.py", file)
    assert re.fullmatch(r"~/runs/\.plugins/[0-9a-f]{32}::ours\.deep\.scores", module)
    assert installed == "json"  # must be installed there too


def test_they_run_from_the_home_when_job_and_laptop_are_gone(laptop: Path, tmp_path: Path) -> None:
    entries = sent(laptop, tmp_path / "home", tmp_path / "job")
    shutil.rmtree(laptop)
    shutil.rmtree(tmp_path / "job")
    plugins.load([plugins.resolve(entry, Path("/")) for entry in entries])
    assert names.find("score", "sent_one") is not None
    assert names.find("score", "sent_two") is not None
    keep(tmp_path / "job", tmp_path / "home")  # a job that brings nothing


def test_a_changed_file_lies_beside_the_old_one(laptop: Path, tmp_path: Path) -> None:
    """A search that was begun with the old one goes on with it."""
    before = sent(laptop, tmp_path / "home", tmp_path / "job")
    (laptop / "sent_help.py").write_text("made = {'w': 1}\n")
    after = sent(laptop, tmp_path / "home", tmp_path / "job2")
    assert not set(before) & set(after)
    assert all(plugins.sources(entry) for entry in (*before, *after))


def test_a_node_without_the_home_gets_them_from_shared_storage(laptop: Path, tmp_path: Path) -> None:
    home, url = tmp_path / "home", f"file://{tmp_path}/storage"
    entries = sent(laptop, home, tmp_path / "job")
    before = plugins.files(entries)
    share(entries, url)
    shutil.rmtree(home)
    bring(entries, None)
    assert not home.exists()
    bring(entries, url)
    assert plugins.files(entries) == before
    assert len(before) == 5
    assert [path.name for path in (home / ".plugins").iterdir() if path.name.startswith(".new")] == []


def test_what_no_storage_holds_is_said_by_who_needs_it(laptop: Path, tmp_path: Path) -> None:
    entries = sent(laptop, tmp_path / "home", tmp_path / "job")
    shutil.rmtree(tmp_path / "home")
    bring(entries, f"file://{tmp_path}/empty")
    with pytest.raises(SpecError, match=r"plugins\[0\]: .*mine.py is gone; put it back"):
        plugins.load(entries[:1])


def test_a_home_that_cannot_be_written_is_named(laptop: Path, tmp_path: Path) -> None:
    home, url = tmp_path / "home", f"file://{tmp_path}/storage"
    entries = sent(laptop, home, tmp_path / "job")
    share(entries, url)
    shutil.rmtree(home)
    home.write_text("a file is in the way")
    with pytest.raises(StoreError, match=r"home/\.plugins/[0-9a-f]{32} cannot be written here"):
        bring(entries, url)


# ---------------------------------------------------------------- altered on the way


def shared(laptop: Path, tmp_path: Path) -> tuple[list[str], Path, str]:
    """Send both and share them, from a home that is gone; gives entries, the home, and the storage's URL."""
    home, url = tmp_path / "home", f"file://{tmp_path}/storage"
    entries = sent(laptop, home, tmp_path / "job")
    share(entries, url)
    shutil.rmtree(home)
    return entries, home, url


def alter(folder: Path, how: str) -> None:
    """Change what lies under a digest."""
    if how == "changed":
        (folder / "sent_help.py").write_text("made = {'theirs': 1}\n")
    elif how == "added":
        (folder / "torch.py").write_text("raise SystemExit('theirs')\n")
    elif how == "taken":
        (folder / "sent_help.py").unlink()
    elif how == "linked":
        (folder / "sent_help.py").unlink()
        (folder / "sent_help.py").symlink_to("/dev/zero")
    else:
        os.mkfifo(folder / "pipe")


HOW = ["changed", "added", "taken", "linked"]


@pytest.mark.parametrize("how", HOW)
def test_what_was_altered_on_shared_storage_is_not_taken(laptop: Path, tmp_path: Path, how: str) -> None:
    entries, home, url = shared(laptop, tmp_path)
    for folder in (tmp_path / "storage" / "plugins").iterdir():
        alter(folder, how)
    with pytest.raises(StoreError, match=r"storage/plugins/[0-9a-f]{32} was altered since it was sent"):
        bring(entries, url)
    assert not any((home / ".plugins").iterdir())


@pytest.mark.parametrize("how", [*HOW, "a pipe beside"])
def test_what_was_altered_in_the_home_is_not_run(laptop: Path, tmp_path: Path, how: str) -> None:
    """The digest is made again from what lies there, before anything is imported."""
    entries = sent(laptop, tmp_path / "home", tmp_path / "job")
    trace = tmp_path / "ran"
    for folder in (tmp_path / "home" / ".plugins").iterdir():
        for file in ("mine.py", "ours/__init__.py"):
            if (folder / file).exists() and how == "changed":
                with (folder / file).open("a") as opened:
                    opened.write(f"\nimport pathlib; pathlib.Path({str(trace)!r}).touch()\n")
        alter(folder, how)
    with pytest.raises(SpecError) as error:
        plugins.load(entries)
    assert len(error.value.problems) == 2
    for i, problem in enumerate(error.value.problems):
        assert re.match(rf"plugins\[{i}\]: .*/\.plugins/[0-9a-f]{{32}} was altered since it was sent", problem)
        assert "nothing of it was run" in problem
    assert not trace.exists()
    assert names.find("score", "sent_one") is None


def test_a_cache_of_python_is_neither_sent_nor_believed(laptop: Path, tmp_path: Path) -> None:
    """A compiled file that claims to be of the text that lies there, on shared storage and in the home."""
    trace = tmp_path / "ran"
    entries, home, url = shared(laptop, tmp_path)
    for _ in range(2):
        for text in tmp_path.glob("storage/plugins/*/sent_help.py"):
            plant(text, trace)
        bring(entries, url)
        for text in home.glob(".plugins/*/sent_help.py"):
            plant(text, trace)
    # in a process of its own, which has imported none of it yet
    done = python("import sys; from eed_search.config import plugins; plugins.load(sys.argv[1:])", *entries)
    assert (done.returncode, done.stderr) == (0, "")
    assert not trace.exists()
    plugins.drop_caches(tmp_path / "storage")
    share(entries, url)  # after an import: Python has made its own
    assert not list((tmp_path / "storage").rglob("__pycache__"))


def plant(text: Path, trace: Path) -> None:
    """Put another code's compiled file beside a text, as of that text's time and size."""
    code = compile(f"import pathlib; pathlib.Path({str(trace)!r}).touch(); made = {{}}", str(text), "exec")
    found = text.stat()
    cache = Path(importlib.util.cache_from_source(str(text)))
    cache.parent.mkdir(exist_ok=True)
    head = importlib.util.MAGIC_NUMBER + bytes(4) + struct.pack("<II", int(found.st_mtime), found.st_size)
    cache.write_bytes(head + marshal.dumps(code))


def test_folders_without_end_are_not_followed(laptop: Path, tmp_path: Path) -> None:
    entries, _, url = shared(laptop, tmp_path)
    for folder in (tmp_path / "storage" / "plugins").iterdir():
        (folder / "again").symlink_to(".")
    with pytest.raises(StoreError, match=r"folders without end|was altered"):
        bring(entries, url)


def test_more_than_is_ever_sent_is_not_fetched(laptop: Path, tmp_path: Path) -> None:
    entries, _, url = shared(laptop, tmp_path)
    for folder in (tmp_path / "storage" / "plugins").iterdir():
        with (folder / "sent_help.py").open("r+b") as file:
            file.truncate(1 << 40)
    with pytest.raises(StoreError, match="has more than 67,108,864 bytes"):
        bring(entries, url)
