"""Printing never fails a command: any encoding, a reader that leaves, a full disk, closed streams; with real ones of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from eed_search.runs.ledger import read_run
from tests.cli.calling import STUBBED, environment
from tests.cli.test_launch import FILE

MAIN = "from eed_search.cli import main; main()"
# What one stream does with a text; argv: where the text lies.
PRINT = """
import sys
from eed_search.cli.streams import guard_streams, complaint, is_heard
guard_streams()
print(eval(sys.argv[1]), flush=True)
print("again", flush=True)
sys.stderr.write(f"{complaint()}|{is_heard()}")
"""
C_LOCALE = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}


def shell(line: str, code: str, *words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run Python code as `"$@"` of a line for bash; its exit code is that of the code, not of what follows in a pipe."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}", "bash", *command],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "'84 ±5 × ε…'", b"84 +-5 x eps..."),
        ("ascii:strict", "'±'", b"+-"),
        ("latin-1", "'±5 → é'", b"\xb15 -> \xe9"),
        ("cp1252", "'±– ━'", b"\xb1\x96 ="),
        ("utf-8", "'±━é'", "±━é".encode()),
        ("utf-8", r"'a\udcffb'", rb"a\udcffb"),
        ("ascii", r"'日'", rb"\u65e5"),
        ("ascii", r"'\U0001f600'", rb"\ud83d\ude00"),
    ],
)
def test_what_an_encoding_lacks_is_written_in_ascii(tmp_path: Path, encoding: str, text: str, shown: bytes) -> None:
    """Readable where we know how, else as JSON writes it."""
    done = shell('"$@"', PRINT, text, cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout.startswith(shown)
    assert done.stderr.endswith(b"|True")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"$@" > /dev/full', b"stdout: cannot be written (No space left on device)|False"),
        ('"$@" >&-', b"stdout: is closed|False"),
        ('(sleep 0.2; "$@") | true', b"|False"),
    ],
)
def test_a_stream_that_takes_nothing_is_no_error(tmp_path: Path, line: str, said: bytes) -> None:
    """It can be asked for; a reader that has gone is no complaint."""
    if "true" in line:  # only sure to be gone when we wait for it
        line = 'exec 3> >(exec true); wait $!; "$@" >&3'
    done = shell(line, PRINT, "'x' * 100_000", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", said)


def test_a_stream_that_does_not_block_gets_everything(tmp_path: Path) -> None:
    """Somebody on the other end of a terminal or pipe may have set it so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [sys.executable, "-c", PRINT, "'x' * 500_000"]
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, env=environment()) as process:
        os.close(writing)
        read: list[bytes] = []

        def drain() -> None:
            with os.fdopen(reading, "rb") as pipe:
                read.append(pipe.read())

        thread = threading.Thread(target=drain)
        thread.start()
        _, said = process.communicate(timeout=120)
        thread.join()
    assert said == b"|True"
    assert read == [b"x" * 500_000 + b"\nagain\n"]


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path: Path) -> None:
    """A ledger as descriptor 1 would take in what children print."""
    code = "from eed_search.cli.streams import guard_streams; guard_streams(); print(open('x', 'w').fileno(), file=open('y', 'w'))"
    assert shell('"$@" <&- >&- 2>&-', code, cwd=tmp_path).returncode == 0
    assert int((tmp_path / "y").read_text(encoding="utf-8")) > 2


@pytest.mark.parametrize(
    "words",
    [
        ("check", "digits"),
        ("--help",),
        ("launch", "--help"),
        ("--version",),
        pytest.param(("doctor",), marks=pytest.mark.whole),
    ],
)
@pytest.mark.parametrize(
    ("line", "why"),
    [('"$@" > /dev/full', "cannot be written (No space left on device)"), ('"$@" >&-', "is closed")],
)
def test_an_answer_that_nobody_gets_is_one_clear_error(
    tmp_path: Path, words: tuple[str, ...], line: str, why: str
) -> None:
    """Exit code 1, no traceback."""
    done = shell(line, MAIN, *words, cwd=tmp_path)
    assert done.returncode == 1
    if words != ("doctor",):  # which may have found a fault of this machine
        assert done.stderr.decode() == f"error: stdout: {why}; give a file, pipe or terminal that takes it\n"


@pytest.mark.parametrize("words", [("check", "digits"), ("--help",), ("nonsense",), ("check", "nonsense.yaml")])
@pytest.mark.parametrize("line", ['"$@" 2>&-', '"$@" 2>/dev/full', '"$@" <&-'])
def test_streams_that_a_command_can_do_without(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    """Its exit code and its answer stay the same."""
    there, lacking = (shell(one, MAIN, *words, cwd=tmp_path) for one in ('"$@"', line))
    assert (lacking.returncode, lacking.stdout) == (there.returncode, there.stdout)


def test_a_reader_that_leaves_early_is_quiet(tmp_path: Path) -> None:
    """As `| head -1`."""
    done = shell('exec 3> >(exec true); wait $!; "$@" >&3', MAIN, "check", "digits", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.whole
@pytest.mark.parametrize(
    ("line", "more"),
    [
        ('"$@" | cat', {"PYTHONIOENCODING": "ascii", **C_LOCALE}),
        pytest.param('"$@" | head -n 3', {}, marks=pytest.mark.slow),
        pytest.param('"$@" > /dev/full', {}, marks=pytest.mark.slow),
        pytest.param('"$@" <&- >&- 2>&-', {}, marks=pytest.mark.slow),
    ],
    ids=["ascii", "head", "full", "closed"],
)
def test_a_search_is_finished_whatever_becomes_of_its_output(tmp_path: Path, line: str, more: dict[str, str]) -> None:
    """Exit code 0; the ledger, MLflow and the report are complete; the next commands work under the same conditions."""
    (tmp_path / "quick.yaml").write_text(FILE, encoding="utf-8")
    words = ("launch", "quick.yaml", "--home", "home", "--name", "one", "--trials", 2)
    done = shell(line, STUBBED, *words, cwd=tmp_path, **more)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    if "head" in line:
        assert (len(done.stdout.splitlines()), done.stderr) == (3, b"")
    if "full" in line:
        assert done.stderr.decode() == (
            "note: stdout: cannot be written (No space left on device); what was to be read there is lost, the result is"
            " kept\n"
        )
    view = read_run(tmp_path / "home" / "one")
    assert (view.state, len(view.trials), view.notes, view.tracker["complete"]) == ("finished", 2, [], True)
    assert (tmp_path / "home" / "one" / "report" / "frontier.html").is_file()
    if not more:
        return
    assert b" +-" in done.stdout
    done.stdout.decode("ascii")
    for again in (("report",), ("report", "--json"), ("status",), ("status", "--json")):
        said = shell('"$@"', STUBBED, *again, "--home", "home", cwd=tmp_path, **more)
        assert (said.returncode, said.stderr) == (0, b"")
        text = said.stdout.decode("ascii")
        if "--json" in again:
            json.loads(text)


@pytest.mark.slow
def test_names_that_are_no_utf8_end_nothing(tmp_path: Path) -> None:
    """A space file's and a data folder's: in Ray's records, the ledger, MLflow, the report and on the screen."""
    (tmp_path / "quick\udcff.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "data\udcff").mkdir()
    for part in ("train", "test"):
        images = np.random.default_rng(len(part)).integers(0, 255, (600, 8, 8, 1), dtype=np.uint8)
        np.savez(tmp_path / "data\udcff" / f"{part}.npz", images=images, labels=np.arange(600) % 10)
    sizes = {"source": "npz", "num_validation": 100, "num_fresh": 100, "num_test": 100}
    words = ["launch", "quick\udcff.yaml", "--data", "data\udcff", "--home", "home", "--name", "one", "--trials", 1]
    words += [word for key, value in sizes.items() for word in ("--set", f"data.{key}={value}")]
    done = shell('"$@"', STUBBED, *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"quick\udcff.yaml" in done.stdout
    view = read_run(tmp_path / "home" / "one")
    assert (view.state, view.notes, view.tracker["complete"]) == ("finished", [], True)
    assert shell('"$@"', STUBBED, "report", "--json", "--home", "home", cwd=tmp_path).returncode == 0


def test_children_print_as_safely(tmp_path: Path) -> None:
    """A worker's own prints, in a locale that knows no ±."""
    code = (
        "import subprocess, sys; from eed_search.cli.streams import for_children; for_children();"
        "sys.exit(subprocess.run([sys.executable, '-c', \"print(chr(177)); open('x', 'w').write(chr(177))\"]).returncode)"
    )
    for encoding in ("ascii", "ascii:strict", ""):
        done = shell('"$@"', code, cwd=tmp_path, PYTHONIOENCODING=encoding, **C_LOCALE)
        assert (done.returncode, done.stderr) == (0, b"")
