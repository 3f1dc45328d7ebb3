"""Addresses: what a URL means, which database a book has, and what no text shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from engine.errors import ConfigError, UncheckedError
from pipelines.local.urls import database_name, derived_password, parse, resolve_servers
from pipelines.settings import load_settings

ADMIN = "postgresql://owner:admin-hunter3@db.example:5433/books"


def resolve(tmp_path: Path, app: str, admin: str = ADMIN, book: str | None = None):
    settings = load_settings(
        home=tmp_path,
        database_url=SecretStr(app),
        database_admin_url=SecretStr(admin),
        nats_url=SecretStr("nats://n:nats-hunter5@h:4222"),
    )
    return resolve_servers(settings, book)


def test_a_url_survives_being_read_and_written() -> None:
    text = "postgresql://us%40er:p%2Fw%23%3A@db.example:5433/books?sslmode=require"
    url = parse(text, "DATABASE_URL")
    assert (url.user, url.password, url.host, url.port, url.database) == (
        "us@er",
        "p/w#:",
        "db.example",
        "5433",
        "books",
    )
    assert url.dsn() == text
    assert url.sqlalchemy("psycopg2") == text.replace("postgresql:", "postgresql+psycopg2:")
    assert parse("postgresql+psycopg://a:b@[::1]/c", "X").dsn() == "postgresql://a:b@[::1]:5432/c"


def test_a_socket_s_directory_stays_a_directory() -> None:
    url = parse("postgresql://a@/books?host=/run/postgresql", "DATABASE_URL")
    assert parse(url.dsn(), "DATABASE_URL") == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "books",
        "mysql://a:hunter@h/d",
        "postgresql://h/d",
        "postgresql://a:hunter@h",
        "postgresql://a:hunter@h:x y/d?z",
    ],
)
def test_what_is_no_database_url_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL") as caught:
        parse(text, "DATABASE_URL")
    assert "hunter" not in str(caught.value)


def test_the_default_book_is_the_base_database_and_another_is_named_after_it(tmp_path: Path) -> None:
    app = "postgresql://compline_app:app-hunter2@db.example:5433/books"
    demo, tape = resolve(tmp_path, app), resolve(tmp_path, app, book="tape_2019")
    assert (demo.app.database, demo.admin.database, demo.dagster.database) == ("books", "books", "books_dagster")
    assert (tape.app.database, tape.dbt.database, tape.dagster.database) == (
        "books_tape_2019",
        "books_tape_2019",
        "books_dagster",
    )
    for text in (repr(demo), str(demo), demo.app.shown()):
        assert "hunter" not in text
        assert demo.dbt.password not in text


def test_two_homes_derive_the_same_service_passwords(tmp_path: Path) -> None:
    app = "postgresql://compline_app:x@db.example:5433/books"
    one, two = resolve(tmp_path / "1", app), resolve(tmp_path / "2", app)
    assert one.dbt.password == two.dbt.password == derived_password("admin-hunter3", "compline_dbt")
    assert one.dbt.password != one.dagster.password


def test_the_application_with_the_owner_s_login_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="same login owner"):
        resolve(tmp_path, ADMIN)


def test_two_databases_in_the_two_urls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names database other"):
        resolve(tmp_path, "postgresql://compline_app:x@db.example:5433/other")


def test_an_owner_s_url_without_password_is_refused_where_no_home_kept_the_derived_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="carries no password"):
        resolve(tmp_path, "postgresql://compline_app:x@h/books", "postgresql://owner@h/books")


def test_a_database_name_longer_than_postgres_allows_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than 63"):
        database_name("x" * 60, "tape")


def test_a_home_that_was_never_started_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("DATABASE_ADMIN_URL", raising=False)
    with pytest.raises(UncheckedError, match="never started") as caught:
        resolve_servers(load_settings(home=tmp_path))
    assert "compline up" in caught.value.next_step
