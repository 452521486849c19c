"""Commands and options: what they say, and how a mistake ends."""

from __future__ import annotations

from pathlib import Path

import pytest

import eed_search
from tests.cli.calling import call

COMMANDS = ("launch", "resume", "status", "stop", "cancel", "check", "report", "export", "verify", "ui", "doctor")
MISTAKES = "name: t\nthreat: {eps: 8}\nserch: {trials: 3}\n"


def test_help_names_every_command() -> None:
    """One line for each command, in 80 columns."""
    result = call("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """Each says what it does and takes --debug, in 80 columns."""
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_no_command_shows_the_help() -> None:
    """A bare call is a question, not a search; it ends as wrong use."""
    result = call()
    assert result.exit_code == 2
    assert "launch" in result.output


def test_version() -> None:
    """The version is the package's."""
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"eed-search {eed_search.__version__}\n")


def test_an_unknown_option_is_wrong_use() -> None:
    """Exit code 2, and the option named."""
    result = call("report", "--jsn")
    assert result.exit_code == 2
    assert "--jsn" in result.stderr


# ---------------------------------------------------------------- check


def test_check_of_a_packaged_file_by_name() -> None:
    """`digits` is found wherever the command is called."""
    result = call("check", "digits")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "digits.yaml: no mistakes" in result.stdout


def test_check_lists_every_mistake_on_stderr_one_a_line(tmp_path: Path) -> None:
    """Exit code 3; the mistakes of the file and of --set stand in one list; nothing on stdout."""
    file = tmp_path / "case.yaml"
    file.write_text(MISTAKES, encoding="utf-8")
    result = call("check", file, "--set", "nonsense", "--set", "seed=-1")
    assert (result.exit_code, result.stdout) == (3, "")
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["--set 'nonsense'", *["case.yaml"] * 3, "error"]
    assert lines[-1] == "error: 4 mistakes; nothing was started"


def test_check_of_no_file_names_the_packaged_ones() -> None:
    """A wrong name says which names there are."""
    result = call("check", "digit")
    assert result.exit_code == 3
    assert result.stderr.startswith("digit: no such file; give a search-space file, or a packaged one: ")
    assert "digits" in result.stderr.splitlines()[0].split(": ")[2]


def test_check_with_data_looks_into_the_folder(tmp_path: Path) -> None:
    """--data replaces data.path, and an empty folder is a mistake for each split."""
    file = tmp_path / "case.yaml"
    file.write_text("name: t\nthreat: {eps: 0.1}\ndata: {source: npz}\n", encoding="utf-8")
    result = call("check", file, "--data", tmp_path)
    assert result.exit_code == 3
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"case.yaml: data.path: {tmp_path} holds no train*.npz")
    assert lines[1].startswith(f"case.yaml: data.path: {tmp_path} holds no test*.npz")


def test_check_sums_a_search_up(tmp_path: Path) -> None:
    """What would be searched stands in a few lines; fixed dimensions do not vary."""
    result = call("check", "digits", "--set", "search.space.recovery=labels", "--set", "search.trials=3")
    assert "search    3 trials (portfolio)" in result.stdout
    varies = next(line for line in result.stdout.splitlines() if line.strip().startswith("varies"))
    assert "score" in varies
    assert "recovery" not in varies


def test_check_says_which_first_proposals_set_leaves_out(tmp_path: Path) -> None:
    """A space narrowed by --set works, in one line that says what is not tried first."""
    file = tmp_path / "case.yaml"
    file.write_text(
        "name: t\nthreat: {eps: 0.1}\nsearch: {first: [{member1.size: 0.25}, {member1.size: 0.5}]}\n", encoding="utf-8"
    )
    result = call("check", file, "--set", "search.space.size=0.5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:2] == [
        "case.yaml: left out of search.first, since --set changed the space:"
        " [0] member1.size: 0.25 is not one of search.space's 0.5",
        f"{file}: no mistakes",
    ]


# ---------------------------------------------------------------- errors


def test_an_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    """Where, what, what to do, on stderr; the exit code is the error's."""
    result = call("report", "--home", tmp_path)
    assert (result.exit_code, result.stdout) == (7, "")
    assert result.stderr == (
        f"error: {tmp_path}: holds no search; start one with `eed-search launch`, or give its folder with --home\n"
    )


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_and_the_message(tmp_path: Path, place: str) -> None:
    """--debug may stand before or after the command."""
    arguments = ["--debug", "report"] if place == "before" else ["report", "--debug"]
    result = call(*arguments, "--home", tmp_path)
    assert result.exit_code == 7
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_an_unexpected_error_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own mistakes end with 1 and say how to see more."""

    def broken(home: Path, run: str | None) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("eed_search.cli.report.open_run", broken)
    result = call("report", "--home", tmp_path)
    assert (result.exit_code, result.stderr) == (1, "error: unexpected KeyError: 'surprise'; --debug shows where\n")


def test_a_file_system_error_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is said with its path."""

    def refused(home: Path, run: str | None) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr("eed_search.cli.report.open_run", refused)
    result = call("report")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: /somewhere: Permission denied; check the path, its permissions and the disk\n",
    )


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt is no error of ours."""

    def interrupted(home: Path, run: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eed_search.cli.report.open_run", interrupted)
    result = call("report")
    assert (result.exit_code, result.stderr) == (130, "Stopped by Ctrl-C.\n")


def test_the_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EED_SEARCH_HOME is the home; --home wins."""
    monkeypatch.setenv("EED_SEARCH_HOME", str(tmp_path / "env"))
    assert f"{tmp_path / 'env'}: holds no search" in call("report").stderr
    assert f"{tmp_path / 'opt'}: holds no search" in call("report", "--home", tmp_path / "opt").stderr


@pytest.mark.parametrize("text", ["80", "-0.1", "101%", "much", "80%%", "nan", ""])
def test_a_share_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    """80 is not 0.8: what is meant must be written."""
    result = call("export", "--out", tmp_path / "out", f"--min-robust-accuracy={text}")
    assert result.exit_code == 2
    assert "write 0.8 or 80%" in result.stderr


def test_ui_without_a_search_is_an_error(tmp_path: Path) -> None:
    """Nothing to show: no server is started."""
    result = call("ui", "--home", tmp_path)
    assert result.exit_code == 7
    assert "holds no search" in result.stderr


def test_verify_of_no_bundle_is_an_error(tmp_path: Path) -> None:
    """A folder without a manifest is no bundle."""
    result = call("verify", tmp_path)
    assert result.exit_code == 8
    assert result.stderr.startswith(f"error: {tmp_path}: is no bundle")


def test_two_places_to_run_are_refused() -> None:
    """Wrong use: which of them is meant?"""
    result = call("launch", "--local", "--address", "auto")
    assert result.exit_code == 2
    assert "--address and --local name two places; give one" in " ".join(result.stderr.split())


def test_a_kind_of_node_needs_a_cluster() -> None:
    """`latency.node` on one machine is a mistake of the file, said before anything starts."""
    result = call("launch", "digits", "--local", "--set", "latency.node=edge")
    assert result.exit_code == 3
    assert "latency.node: edge: names a kind of a cluster's nodes, and this is one machine" in result.stderr
