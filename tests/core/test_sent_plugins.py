"""User code that is sent to a cluster: what travels, where it lies there, and how a node without it gets it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from eed_search.core import names, plugins
from eed_search.core.errors import SpecError, StoreError
from eed_search.core.sent_plugins import bring, keep, pack, share

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
