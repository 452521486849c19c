"""Commands are read far enough to say which program runs with which options."""

from __future__ import annotations

import pytest

from eed_search.cluster.shell import Call, calls


def _one(text: str, *program: str) -> Call:
    (found,) = [call for call in calls([text]) if call.runs(*program)]
    return found


@pytest.mark.parametrize(
    "text",
    [
        "RAY_AUTH_MODE=token ray start --head",
        "ulimit -n 65536; RAY_AUTH_MODE=token nohup ~/env/bin/ray start --head",
        "export RAY_AUTH_MODE=token && ray start --head",
        "sudo -E env RAY_AUTH_MODE='token' ray start --head &",
        "export RAY_AUTH_MODE=token\nray start \\\n --head",
    ],
)
def test_a_variable_reaches_the_program(text: str) -> None:
    """Before the command, exported, through wrappers, over lines."""
    start = _one(text, "ray", "start")
    assert start.environment["RAY_AUTH_MODE"] == "token"
    assert start.options("--head") == [""]


@pytest.mark.parametrize(
    "text",
    [
        "RAY_AUTH_MODE=token ulimit -n 65536; ray start",
        "RAY_AUTH_MODE=token; ray start",
        "echo RAY_AUTH_MODE=token; ray start",
    ],
)
def test_a_variable_of_another_command_does_not(text: str) -> None:
    """It holds for its own command alone."""
    assert "RAY_AUTH_MODE" not in _one(text, "ray", "start").environment


def test_an_export_ends_with_its_shell() -> None:
    """Each command of the file is a shell of its own."""
    _, start = list(calls(["export A=b; true", "ray start"]))
    assert start.environment == {}


def test_values_of_options() -> None:
    """Both forms, quotes removed; a bare option has an empty value."""
    call = _one("mlflow server --host=0.0.0.0 --allowed-hosts 'a:1,b:2' --dev --port 1", "mlflow", "server")
    values = [call.options(name) for name in ("--host", "--allowed-hosts", "--dev", "--port", "--absent")]
    assert values == [["0.0.0.0"], ["a:1,b:2"], [""], ["1"], []]


def test_what_is_only_said_does_not_run() -> None:
    """In quotes or behind a #."""
    assert not [call for call in calls(["echo 'ray start'", "true # ray start"]) if call.runs("ray", "start")]


def test_python_runs_modules() -> None:
    """`python -m mlflow server` is MLflow's server."""
    assert _one("/opt/bin/python3.12 -m mlflow server", "mlflow", "server")


def test_open_quotes_are_an_error() -> None:
    """With the command as the message."""
    with pytest.raises(ValueError, match="echo 'x"):
        list(calls(["echo 'x"]))
