"""Shared storage: whole files by URL, on a disk and on an S3 server, and one clear error where it is not usable."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from eed_search.core.errors import StoreError
from eed_search.storage.shared_storage import Storage, url_problem


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Give the URL of an empty bucket on a real S3 server on loopback."""
    server = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[dev]'")
    boto3 = pytest.importorskip("boto3")
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        there = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        there.start()
        host, port = there.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield f"s3://bucket/searches?region=us-east-1&scheme=http&endpoint_override={quote(f'{host}:{port}')}"
        there.stop()


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "file":
        return Storage(f"file://{tmp_path}/shared")
    base, _, query = request.getfixturevalue("s3").partition("?")
    return Storage(f"{base}/{tmp_path.name}?{query}")


def test_what_is_written_is_read_back(storage: Storage) -> None:
    storage.write("runs/a/latest.json", b"one")
    storage.write("runs/a/latest.json", b"two")

    assert storage.read("runs/a/latest.json") == b"two"


def test_what_is_not_there_reads_as_none_and_lists_as_empty(storage: Storage) -> None:
    assert storage.read("nothing/here") is None
    assert storage.names("nothing") == []


def test_deleting_twice_is_harmless(storage: Storage) -> None:
    storage.write("x", b"1")
    storage.delete("x")
    storage.delete("x")

    assert storage.read("x") is None


def test_names_are_those_directly_in_the_folder(storage: Storage) -> None:
    for name in ("runs/b/file", "runs/a/deep/file", "runs/top"):
        storage.write(name, b"1")

    assert storage.names("runs") == ["top"]
    assert storage.names("runs", folders=True) == ["a", "b"]


def test_the_check_leaves_nothing_behind(storage: Storage) -> None:
    storage.check()

    assert storage.names("") == []


def test_another_process_opens_it_anew(storage: Storage) -> None:
    storage.write("x", b"1")

    assert pickle.loads(pickle.dumps(storage)).read("x") == b"1"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    wholes = {bytes([i]) * 300_000 for i in range(2)}
    seen: set[bytes | None] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(storage.read("x"))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        for whole in wholes:
            storage.write("x", whole)
    done.set()
    reader.join()

    assert seen <= wholes | {None}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("/mnt/shared", "no scheme of file, s3, gs"),
        ("https://bucket/x", "no scheme of file, s3, gs"),
        ("file://shared", "not an absolute path"),
        ("s3:///folder", "names no bucket"),
        ("s3://key:secret@bucket/folder", "holds a key"),
    ],
)
def test_a_wrong_url_is_named(url: str, says: str) -> None:
    assert says in url_problem(url)
    with pytest.raises(StoreError, match=says):
        Storage(url)


@pytest.mark.parametrize(
    "url", ["file:///mnt/shared", "s3://bucket", "gs://bucket/a/b", "s3://bucket/a?region=eu-west-1"]
)
def test_a_right_url_has_no_problem(url: str) -> None:
    assert url_problem(url) == ""


def test_a_bucket_that_is_not_there_is_one_clear_error(s3: str) -> None:
    storage = Storage(s3.replace("//bucket/", "//no-such-bucket/"))

    with pytest.raises(StoreError, match=r"no-such-bucket.* cannot be written"):
        storage.check()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(StoreError, match="cannot be written"):
        Storage(f"file://{tmp_path}/file/below").check()


def test_messages_leave_out_the_query() -> None:
    assert str(Storage("s3://bucket/x?endpoint_override=127.0.0.1%3A9&scheme=http")) == "s3://bucket/x"


def test_a_folder_comes_back_as_it_went(storage: Storage, tmp_path: Path) -> None:
    for name, text in (("manifest", "last"), ("deep/er/file", "1"), ("file", "2")):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_text(text)
    storage.put_folder(tmp_path / "here", "bundle", last="manifest")

    assert storage.get_folder("bundle", tmp_path / "back", 6) == 6
    back = {path.relative_to(tmp_path / "back").as_posix(): path.read_text() for path in _files(tmp_path / "back")}
    assert back == {"manifest": "last", "deep/er/file": "1", "file": "2"}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
