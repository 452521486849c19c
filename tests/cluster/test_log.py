"""A job's log: our lines are told from others', nothing is said twice or lost when the connection is."""

from __future__ import annotations

import pytest

from eed_search.cli.on_head import Marked
from eed_search.cluster.jobs import _Log
from eed_search.cluster.marks import DATA, ERR, OUT

TEXT = f"2026 INFO job_manager: setting up\n{OUT}one\n{ERR}two\nnoise{OUT}\n{DATA}abc\n{OUT}\n{OUT}three"


class Heard:
    """What a log passes on."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, bool]] = []
        self.data: list[str] = []
        self.log = _Log(lambda line, on_stderr: self.lines.append((line, on_stderr)), self.data.append)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 1000])
def test_our_lines_come_out_whole(size: int) -> None:
    """However the text is cut, without a line's end at the end too."""
    heard = Heard()
    for i in range(0, len(TEXT), size):
        heard.log.take(TEXT[i : i + size])
    heard.log.finish(TEXT)
    assert heard.lines == [("one", False), ("two", True), ("", False), ("three", False)]
    assert heard.data == ["abc"]


@pytest.mark.parametrize("cut", range(0, len(TEXT), 5))
def test_after_a_lost_connection_nothing_is_said_twice(cut: int) -> None:
    """The log comes from its beginning again."""
    heard = Heard()
    heard.log.take(TEXT[:cut])
    heard.log.again()
    for i in range(0, len(TEXT), 4):
        heard.log.take(TEXT[i : i + 4])
    heard.log.finish(TEXT)
    assert [line for line, _ in heard.lines] == ["one", "two", "", "three"]


def test_a_marked_stream_marks_lines_and_swaps_what_only_the_head_knows() -> None:
    """Whole lines, in order, whoever writes in between."""
    written: list[str] = []

    class Stream:
        def write(self, text: str) -> None:
            written.append(text)

        def flush(self) -> None:
            pass

    out = Marked(OUT, Stream(), {" --home /shared": " --cluster mine.yaml"})
    out.write("status  eed-search status x")
    out.write(" --home /shared\nnext")
    assert written == [f"{OUT}status  eed-search status x --cluster mine.yaml\n"]
    out.finish()
    assert written[1:] == [f"{OUT}next\n"]
