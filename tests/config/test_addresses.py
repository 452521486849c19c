"""Addresses with passwords: refused in a file, hidden in messages, dropped from what an earlier version kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from eed_search.config.addresses import password_problem, without_password, without_passwords
from eed_search.config.loader import load, parse
from eed_search.core.errors import SpecError
from eed_search.runs.ledger import FILE_NAME, Ledger, read_run
from tests.cli.calling import call

WITH = [
    "postgresql://user:s3cret@host/db",
    "postgres://user:s3cret@host:5432/db",
    "postgresql+psycopg://user:s3cret@host/db",
    "postgresql://user:s3c/ret@host/db",
    "postgresql:///db?host=h&user=u&password=s3cret",
    "mysql+pymysql://user:s3cret@host/db",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BX%7D%3BUID%3Du%3BPWD%3Ds3cret",
    "http://user:s3cret@127.0.0.1:5000",
    "HTTPS://user:s3cret@mlflow.example.org/base",
    "https://s3cret@mlflow.example.org",
    "https://mlflow.example.org/?access_token=s3cret",
    "https://mlflow.example.org/?api_key=s3cret",
]
WITHOUT = [
    "postgresql://user@host/db",
    "postgresql:///mlflow?host=/var/run/postgresql",
    "http://127.0.0.1:5000",
    "http://[::1]:5000/base",
    "https://mlflow.example.org/a@b:c",
    "sqlite:////home/a:b@c/mlflow.db",
    "sqlite:///mlflow.db",
    "databricks://profile",
    "file:///tmp/a:b@c",
]


@pytest.mark.parametrize("uri", WITH)
def test_a_password_is_found_refused_and_never_shown(uri: str, tmp_path: Path) -> None:
    """By `check` and `launch`, in the file and on the command line; the line says how to give it."""
    assert password_problem(uri)
    for words in (["check", "digits", "--set", f"tracking.uri={uri}"], ["launch", "--set", f"tracking.uri={uri}"]):
        done = call(*words, *(["--home", tmp_path / "home"] if words[0] == "launch" else []))
        assert done.exit_code == 3
        assert "tracking.uri: the address holds a " in done.output
        assert "MLFLOW_TRACKING_PASSWORD" in done.output or "PGPASSWORD" in done.output
        assert "s3c" not in done.output
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("uri", WITHOUT)
def test_an_address_without_one_is_taken_and_shown_as_it_is(uri: str) -> None:
    """Also with a user, a port, and the characters that part them."""
    assert password_problem(uri) == ""
    assert without_password({"tracking": {"uri": uri}}) == {"tracking": {"uri": uri}}


@pytest.mark.parametrize("uri", WITH)
def test_what_an_earlier_version_kept_is_dropped(uri: str) -> None:
    """The rest of the address stays, so that it compares with the one that is given without."""
    kept = without_password({"tracking": {"uri": uri, "experiment": "e"}})["tracking"]
    assert kept["experiment"] == "e"
    assert password_problem(kept["uri"]) == ""
    assert "s3c" not in kept["uri"]


def test_messages_hide_what_is_in_the_middle_of_them() -> None:
    """As MLflow and SQLAlchemy quote them."""
    said = "cannot connect to 'postgresql://me:p@ss@host/db' (http://u:pw@h:1/x?token=abc), see http://127.0.0.1:5000"
    assert without_passwords(said) == (
        "cannot connect to 'postgresql://me:***@host/db' (http://u:***@h:1/x?token=***), see http://127.0.0.1:5000"
    )


def test_a_password_at_the_wrong_place_is_not_shown(tmp_path: Path) -> None:
    """The section itself was given the address."""
    file = tmp_path / "s.yaml"
    file.write_text("name: s\nthreat: {eps: 0.1}\ntracking: postgresql://u:s3cret@h/db\n")
    with pytest.raises(SpecError) as caught:
        load(file)
    assert "tracking" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_ledger_with_a_password_is_read_without_it(tmp_path: Path) -> None:
    """Whatever is made of the run, its report and its file of settings, has none; and it can be read at all."""
    plain = parse({"name": "s", "threat": {"eps": 0.1}}, "s").to_plain()
    plain["tracking"]["uri"] = "postgresql://u:s3cret@h/db"
    with Ledger(tmp_path / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": "s", "spec": plain})
    view = read_run(tmp_path)
    assert parse(view.spec, "s").tracking.uri == "postgresql://u@h/db"
