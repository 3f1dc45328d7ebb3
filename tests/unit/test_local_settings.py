"""Settings: what contradicts itself is refused by name, and no text shows a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from engine.errors import ConfigError
from pipelines.settings import check_book, load_settings, repo_root

APP = "postgresql://compline_app:app-hunter2@db.example:5433/books?sslmode=require"
ADMIN = "postgresql://owner:admin-hunter3@db.example:5433/books"
NAMES = ("DATABASE_URL", "DATABASE_ADMIN_URL", "NATS_URL", "COMPLINE_HOME", "COMPLINE_BOOK", "COMPLINE_PG_PORT")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_defaults_are_the_embedded_servers_below_the_clone() -> None:
    settings = load_settings()
    assert settings.home == repo_root() / ".compline"
    assert settings.embedded_postgres
    assert (settings.book, settings.step_timeout_s) == ("demo", 1800)


def test_no_variable_but_its_own_sets_a_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HOME is the user's home and BOOK anybody's word; taken for ours, `make clean` would remove the user's files."""
    for name, value in (("HOME", str(tmp_path)), ("BOOK", "other"), ("PG_PORT", "1"), ("STEP_TIMEOUT_S", "1")):
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.home == repo_root() / ".compline"
    assert (settings.book, settings.pg_port, settings.step_timeout_s) == ("demo", None, 1800)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("COMPLINE_PG_PORT", "")
    assert load_settings().database_url is None


@pytest.mark.parametrize(("given", "missing"), [NAMES[:2], NAMES[1::-1]])
def test_one_database_url_without_the_other_is_refused_and_names_it(
    monkeypatch: pytest.MonkeyPatch, given: str, missing: str
) -> None:
    monkeypatch.setenv(given, APP)
    with pytest.raises(ConfigError, match=f"{given} is set and {missing} is not") as caught:
        load_settings()
    assert missing in caught.value.next_step
    assert "hunter" not in str(caught.value)


def test_no_text_of_the_settings_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", APP)
    monkeypatch.setenv("DATABASE_ADMIN_URL", ADMIN)
    monkeypatch.setenv("NATS_URL", "nats://me:nats-hunter4@127.0.0.1:4222")
    settings = load_settings()
    assert isinstance(settings.database_url, SecretStr)
    assert settings.database_url.get_secret_value() == APP
    for text in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.model_dump()}"):
        assert "hunter" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [("COMPLINE_PG_PORT", "seventy"), ("COMPLINE_PG_PORT", "70000"), ("COMPLINE_STEP_TIMEOUT_S", "0")],
)
def test_an_unfit_value_is_refused_by_the_setting_s_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        load_settings()


@pytest.mark.parametrize("book", ["", "Demo", "a-b", "_a", "a" * 32, "dagster", 'x"; DROP', "é"])
def test_a_book_s_name_that_is_no_database_name_is_refused(book: str) -> None:
    with pytest.raises(ConfigError, match="not a name for a book"):
        check_book(book)


def test_a_relative_home_is_made_absolute_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(home=Path("x")).home == tmp_path / "x"


def test_the_user_s_home_the_clone_and_the_root_are_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path, repo_root(), Path("/")):
        with pytest.raises(ConfigError, match="COMPLINE_HOME is"):
            load_settings(home=folder)
