"""Roles and databases, on the embedded server and on a real one that the two URLs name."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from engine.errors import ConfigError, UncheckedError
from pipelines.local import urls
from pipelines.local.postgres import ensure_postgres, stop_postgres
from pipelines.local.roles import require_version
from pipelines.local.servers import ensure_servers, purge, stop_servers
from pipelines.local.urls import ALL_ROLES, Servers
from pipelines.settings import Settings, load_settings

NewHome = Callable[[], Path]
Superuser = psycopg.Connection[tuple[object, ...]]


def quiet(line: str) -> None:
    del line


def one(url: urls.DatabaseUrl, query: str) -> object:
    with psycopg.connect(url.dsn(), autocommit=True) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


@pytest.fixture
def embedded(old_home: NewHome, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("DATABASE_URL", "DATABASE_ADMIN_URL", "NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    return load_settings(home=old_home())


def test_the_embedded_servers_come_with_every_role_and_say_the_same_twice(embedded: Settings) -> None:
    first = ensure_servers(embedded, talk=quiet)
    second = ensure_servers(embedded, talk=quiet)
    assert first == second == urls.resolve_servers(embedded)
    for url in (first.app, first.admin, first.dbt, first.collector, first.dagster):
        assert one(url, "SELECT session_user") == url.user
    assert one(first.admin, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'compline_%' AND rolcanlogin") == 8
    assert one(first.admin, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'compline'") == urls.ADMIN
    kept = sorted((embedded.home / "secrets").iterdir())
    assert len(kept) == len(ALL_ROLES) + 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert stop_servers(embedded.home) == ["NATS", "Postgres"]
    assert stop_servers(embedded.home) == []
    purge(embedded.home)
    assert not embedded.home.exists()


def test_a_second_up_writes_nothing_to_the_catalogue(embedded: Settings) -> None:
    servers = ensure_servers(embedded, talk=quiet)
    root = urls.superuser(embedded.home)
    versions = [
        f"SELECT string_agg(xmin::text, ',' ORDER BY oid) FROM {table}" for table in ("pg_authid", "pg_database")
    ]
    before = [one(root, version) for version in versions]
    assert ensure_servers(embedded, talk=quiet) == servers
    assert [one(root, version) for version in versions] == before


def test_the_application_can_neither_create_nor_shadow_anything(embedded: Settings) -> None:
    servers = ensure_servers(embedded, talk=quiet)
    for statement in ("CREATE SCHEMA x", "CREATE TABLE public.x ()", "CREATE TEMP TABLE x ()", "CREATE ROLE x"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            one(servers.app, statement)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        one(servers.app.on("compline_dagster"), "SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        one(servers.dagster.on("compline"), "SELECT 1")
    one(servers.dagster, "CREATE TABLE runs ()")


def test_books_are_databases_that_sort_by_code_point(embedded: Settings) -> None:
    demo = ensure_servers(embedded, talk=quiet)
    tape = ensure_servers(embedded, talk=quiet, book="tape")
    assert (demo.app.database, tape.app.database) == ("compline", "compline_tape")
    assert one(tape.app, "SELECT string_agg(x, '' ORDER BY x) FROM unnest(ARRAY['b', 'a', 'B', 'é', 'Z']) AS t(x)") == (
        "BZabé"
    )


def test_a_lost_role_and_a_changed_password_are_put_right(embedded: Settings) -> None:
    servers = ensure_servers(embedded, talk=quiet)
    with psycopg.connect(urls.superuser(embedded.home).dsn(), autocommit=True) as connection:
        connection.execute("DROP OWNED BY compline_dbt; DROP ROLE compline_dbt")
        connection.execute("ALTER ROLE compline_app PASSWORD 'other'")
    ensure_servers(embedded, talk=quiet)
    assert (one(servers.app, "SELECT 1"), one(servers.dbt, "SELECT 1")) == (1, 1)


def test_four_processes_at_once_agree(embedded: Settings) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from pipelines.local.servers import ensure_servers; from pipelines.settings import load_settings\n"
        "s = ensure_servers(load_settings(home=Path(sys.argv[1])), talk=lambda line: None, book=sys.argv[2])\n"
        "print(s.app.port, s.dagster.dsn())"
    )

    def start(book: str) -> str:
        command = [sys.executable, "-c", code, str(embedded.home), book]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(start, ["demo", "demo", "one", "two"]))) == 1


def test_a_stopped_server_is_unchecked_and_names_no_password(embedded: Settings) -> None:
    servers = ensure_servers(embedded, talk=quiet)
    stop_postgres(embedded.home)
    real = load_settings(
        home=embedded.home,
        database_url=SecretStr(servers.app.dsn()),
        database_admin_url=SecretStr(servers.admin.dsn()),
    )
    with pytest.raises(UncheckedError, match="does not answer") as caught:
        ensure_servers(real, talk=quiet)
    assert servers.admin.password not in str(caught.value)


def test_a_server_older_than_17_is_refused() -> None:
    old = SimpleNamespace(info=SimpleNamespace(server_version=160004))
    with pytest.raises(ConfigError, match="Postgres 16"):
        require_version(old)  # type: ignore[arg-type]


class Real:
    """A server as an operator's: an owner who may create roles and databases, and nothing of ours."""

    def __init__(self, home: Path, new_home: NewHome) -> None:
        self.new_home = new_home
        self.root = urls.parse(ensure_postgres(home, talk=quiet).superuser_dsn, "superuser")
        self.run("CREATE ROLE owner LOGIN CREATEROLE CREATEDB PASSWORD 'owner-pw'")

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.root.dsn(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement))  # type: ignore[arg-type]

    def settings(self, app: str = "compline_app:app-pw", owner: str = "owner:owner-pw") -> Settings:
        at = f"@{self.root.host}:{self.root.port}/books"
        return load_settings(
            home=self.new_home(),
            database_url=SecretStr(f"postgresql://{app}{at}"),
            database_admin_url=SecretStr(f"postgresql://{owner}{at}"),
            nats_url=SecretStr("nats://127.0.0.1:1"),
        )

    def up(self, app: str = "compline_app:app-pw") -> Servers:
        return ensure_servers(self.settings(app), talk=quiet)


@pytest.fixture
def real(new_home: NewHome, old_home: NewHome) -> Iterator[Real]:
    home = old_home()
    yield Real(home, new_home)
    stop_postgres(home)


def test_a_real_server_gets_roles_databases_and_the_application_s_login(real: Real) -> None:
    first, second = real.up(), real.up()
    assert first == second  # two homes, one server: the same derived passwords
    for url in (first.app, first.admin, first.dbt, first.collector, first.dagster):
        assert one(url, "SELECT session_user") == url.user
    assert (first.admin.user, first.admin.database) == ("owner", "books")
    assert one(first.admin, f"SELECT count(*) FROM pg_roles WHERE rolname = ANY(ARRAY{list(ALL_ROLES)})") == 7
    assert one(first.admin, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'compline_finance'") is False
    one(first.dagster, "CREATE TABLE runs ()")


def test_an_application_login_of_another_name_becomes_a_member(real: Real) -> None:
    real.run("CREATE ROLE books_app LOGIN PASSWORD 'pw'")
    servers = real.up("books_app:pw")
    assert servers.app.user == "books_app"
    assert one(servers.app, "SELECT pg_has_role(session_user, 'compline_app', 'USAGE')") is True


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("ALTER ROLE bad SUPERUSER", "is a superuser"),
        ("ALTER ROLE bad BYPASSRLS", "has BYPASSRLS"),
        ("ALTER ROLE bad CREATEROLE", "can create roles"),
        ("GRANT pg_write_all_data TO bad", "overrides grants"),
        ("GRANT owner TO bad", "owner"),
    ],
)
def test_a_login_that_the_guard_would_not_bind_is_refused(real: Real, statement: str, reason: str) -> None:
    real.run("CREATE ROLE bad LOGIN PASSWORD 'pw'", statement)
    with pytest.raises(ConfigError, match=reason) as caught:
        real.up("bad:pw")
    assert "bad" in caught.value.what


def test_a_login_that_owns_a_table_is_refused(real: Real) -> None:
    servers = real.up()
    real.run(f"GRANT CONNECT ON DATABASE {servers.app.database} TO compline_app")
    with psycopg.connect(real.root.on("books").dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE mine (); ALTER TABLE mine OWNER TO compline_app")
    with pytest.raises(ConfigError, match="owns a schema, table or function"):
        real.up()


def test_an_existing_login_keeps_its_password_and_a_wrong_one_is_refused(real: Real) -> None:
    real.up()
    with pytest.raises(ConfigError, match="cannot log in") as caught:
        real.up("compline_app:guessed-pw")
    assert "guessed-pw" not in str(caught.value)
    assert real.up().app.password == "app-pw"


def test_an_owner_who_may_not_create_roles_or_databases_is_told_what_to_ask_for(real: Real) -> None:
    real.run("ALTER ROLE owner NOCREATEROLE")
    with pytest.raises(ConfigError, match="may not create it") as caught:
        real.up()
    assert "CREATEROLE" in caught.value.next_step
    real.run("ALTER ROLE owner CREATEROLE NOCREATEDB")
    with pytest.raises(ConfigError, match="database books does not exist") as caught:
        real.up()
    assert "CREATE DATABASE books" in caught.value.next_step


def test_a_database_of_another_owner_is_refused(real: Real) -> None:
    real.run("CREATE DATABASE books")
    with pytest.raises(ConfigError, match="database books belongs to compline_super") as caught:
        real.up()
    assert "OWNER TO owner" in caught.value.next_step


def test_later_processes_find_the_service_passwords_in_the_home(real: Real) -> None:
    settings = real.settings()
    ensure_servers(settings, talk=quiet)
    kept = settings.home / "secrets" / urls.role_secret(urls.DBT)
    assert kept.read_text(encoding="utf-8") == urls.derived_password("owner-pw", urls.DBT)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
