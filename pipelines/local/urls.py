"""Addresses of the servers: which database, login and password each part of Compline uses.

What belongs here: working out addresses from settings and remembered secrets. What does not: starting servers,
creating databases or roles (`servers`, `roles`).

Every book is a database: the default book is the base database itself, another is `<database>_<book>`. Dagster's
storage is `<database>_dagster`.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from engine.errors import ConfigError, UncheckedError
from pipelines.local import nats, ports, postgres
from pipelines.local.files import read_secret, read_state
from pipelines.local.postgres_place import state_file
from pipelines.settings import DEFAULT_BOOK, Settings, check_book

BASE_DATABASE = "compline"
APP, ADMIN, DBT, DAGSTER = "compline_app", "compline_admin", "compline_dbt", "compline_dagster"
COLLECTOR, FINANCE, AUDITOR = "compline_collector", "compline_finance", "compline_auditor"
SERVICE_ROLES = (DBT, DAGSTER, COLLECTOR)
ALL_ROLES = (APP, ADMIN, DBT, COLLECTOR, FINANCE, AUDITOR, DAGSTER)


@dataclass(frozen=True)
class DatabaseUrl:
    """Where a login connects to.

    Args:
        host: name, address, or directory of a socket.
        port: its port, as text since a URL may list several.
        user: login.
        password: its password, not in the repr; empty where the URL has none.
        database: database name.
        options: further connection parameters, such as sslmode.
    """

    host: str
    port: str
    user: str
    password: str = field(repr=False)
    database: str
    options: tuple[tuple[str, str], ...] = ()

    def dsn(self) -> str:
        """A URL for psycopg, with the password."""
        return self._text("postgresql")

    def sqlalchemy(self, driver: str = "psycopg") -> str:
        """A URL for SQLAlchemy, with the password.

        Args:
            driver: `psycopg`, or `psycopg2` for Dagster's storage.
        """
        return self._text(f"postgresql+{driver}")

    def on(self, database: str) -> DatabaseUrl:
        """The same login on another database.

        Args:
            database: its name.
        """
        return replace(self, database=database)

    def login(self, user: str, password: str) -> DatabaseUrl:
        """Another login on the same database.

        Args:
            user: its name.
            password: its password.
        """
        return replace(self, user=user, password=password)

    def shown(self) -> str:
        """Text for a person, without the password."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"

    def _text(self, scheme: str) -> str:
        word = f":{quote(self.password, safe='')}" if self.password else ""
        options = dict(self.options)
        netloc = f"{quote(self.user, safe='')}{word}@"
        if self.host.startswith("/") or "," in self.host:
            options |= {"host": self.host, "port": self.port}
        else:
            netloc += f"[{self.host}]" if ":" in self.host else self.host
            netloc += f":{self.port}"
        query = f"?{urlencode(options, quote_via=quote)}" if options else ""
        return f"{scheme}://{netloc}/{quote(self.database, safe='')}{query}"


@dataclass(frozen=True)
class Servers:
    """The addresses that one book's commands use.

    Args:
        book: the book's name.
        embedded_postgres: whether the database is the embedded one.
        embedded_nats: whether the NATS server is the embedded one.
        app: the application's login (insert-only on the ledger).
        admin: owner of the book's database, runs the migrations.
        dbt: dbt's login.
        collector: the login of the collector of outside readings.
        dagster: Dagster's login on its own storage database.
        nats_url: the NATS server with its credentials; secret, not in the repr.
    """

    book: str
    embedded_postgres: bool
    embedded_nats: bool
    app: DatabaseUrl
    admin: DatabaseUrl
    dbt: DatabaseUrl
    collector: DatabaseUrl
    dagster: DatabaseUrl
    nats_url: str = field(repr=False)


def parse(text: str, setting: str) -> DatabaseUrl:
    """Read a database URL.

    Args:
        text: `postgresql://user:password@host:port/database?sslmode=…`, also with a SQLAlchemy driver in the scheme.
        setting: the setting's name; no message shows the text.

    Raises:
        ConfigError: it is not such a URL, or names no user or database.
    """
    scheme, _, rest = text.partition("://")
    plain = f"{scheme.split('+')[0]}://{rest}" if rest else text
    try:
        found = {key: str(value) for key, value in conninfo_to_dict(plain).items() if value is not None}
    except psycopg.ProgrammingError:
        raise _not_a_url(setting, "it cannot be read as a Postgres URL") from None
    if scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise _not_a_url(setting, "it does not begin with postgresql://")
    for part in ("user", "dbname"):
        if not found.get(part):
            raise _not_a_url(setting, "it names no user" if part == "user" else "it names no database")
    return DatabaseUrl(
        host=found.pop("host", "127.0.0.1"),
        port=found.pop("port", "5432"),
        user=found.pop("user"),
        password=found.pop("password", ""),
        database=found.pop("dbname"),
        options=tuple(sorted(found.items())),
    )


def _not_a_url(setting: str, what: str) -> ConfigError:
    return ConfigError(
        f"{setting}: {what}",
        rule="postgresql://user:password@host:port/database",
        next_step=f"correct {setting}, or unset both database URLs to use the embedded server",
    )


def given_urls(settings: Settings) -> tuple[DatabaseUrl, DatabaseUrl]:
    """The application's and the owner's URL of a real server.

    Args:
        settings: with both URLs set.

    Raises:
        ConfigError: one is unreadable, they name different databases, or the same login.
    """
    if settings.database_url is None or settings.database_admin_url is None:
        raise ConfigError("DATABASE_URL and DATABASE_ADMIN_URL are not set", next_step="set both")
    app = parse(settings.database_url.get_secret_value(), "DATABASE_URL")
    admin = parse(settings.database_admin_url.get_secret_value(), "DATABASE_ADMIN_URL")
    if app.database != admin.database:
        raise ConfigError(
            f"DATABASE_URL names database {app.database}, DATABASE_ADMIN_URL {admin.database}",
            rule="both open the same database",
            next_step="correct one of them",
        )
    if app.user == admin.user:
        raise ConfigError(
            f"DATABASE_URL and DATABASE_ADMIN_URL use the same login {app.user}",
            rule="the application must not own what guards it: triggers and grants do not bind an owner",
            next_step="give DATABASE_URL a login of its own, such as compline_app",
        )
    return app, admin


def database_name(base: str, book: str) -> str:
    """The database of a book.

    Args:
        base: the base database.
        book: the book's name.

    Raises:
        ConfigError: the book's name is not one, or the two together are longer than a database name may be.
    """
    check_book(book)
    name = base if book == DEFAULT_BOOK else f"{base}_{book}"
    if len(name.encode()) > 63:
        raise ConfigError(f"database name {name} is longer than 63 bytes", next_step="choose a shorter name")
    return name


def dagster_database(base: str) -> str:
    """The database of Dagster's storage.

    Args:
        base: the base database.
    """
    return f"{base}_dagster"


def role_secret(role: str) -> str:
    """The file name that keeps a role's password below `secrets/`.

    Args:
        role: for example compline_dbt.
    """
    return f"role_{role}"


def derived_password(admin_password: str, role: str) -> str:
    """A service role's password on a real server, so that two homes agree without talking.

    Args:
        admin_password: the owner's password.
        role: for example compline_dbt.
    """
    return hmac.new(admin_password.encode(), f"compline/role/{role}".encode(), hashlib.sha256).hexdigest()


def resolve_servers(settings: Settings, book: str | None = None) -> Servers:
    """The addresses for a book; starts, creates and asks nothing.

    Args:
        settings: from `load_settings`.
        book: the book, by default the settings'.

    Raises:
        ConfigError: the settings contradict each other.
        UncheckedError: the embedded server of this home was never started.
    """
    book = check_book(book or settings.book)
    if settings.embedded_postgres:
        app = embedded_login(settings.home, APP, BASE_DATABASE)
        admin = embedded_login(settings.home, ADMIN, BASE_DATABASE)
        word = {role: _kept(settings.home, role) for role in SERVICE_ROLES}
    else:
        app, admin = given_urls(settings)
        word = {role: service_password(settings.home, admin.password, role) for role in SERVICE_ROLES}
    base = admin.database
    mine = database_name(base, book)
    return Servers(
        book=book,
        embedded_postgres=settings.embedded_postgres,
        embedded_nats=settings.nats_url is None,
        app=app.on(mine),
        admin=admin.on(mine),
        dbt=admin.on(mine).login(DBT, word[DBT]),
        collector=admin.on(mine).login(COLLECTOR, word[COLLECTOR]),
        dagster=admin.on(dagster_database(base)).login(DAGSTER, word[DAGSTER]),
        nats_url=settings.nats_url.get_secret_value() if settings.nats_url else nats.remembered_url(settings.home),
    )


def service_password(home: Path, admin_password: str, role: str) -> str:
    """A service role's password on a real server: derived, or as an earlier process kept it in the home.

    Args:
        home: the home.
        admin_password: the owner's password, empty where its URL has none.
        role: the service role.

    Raises:
        ConfigError: there is neither.
    """
    if admin_password:
        return derived_password(admin_password, role)
    kept = read_secret(home, role_secret(role))
    if kept:
        return kept
    raise ConfigError(
        "DATABASE_ADMIN_URL carries no password",
        rule="the service roles' passwords are derived from it, so that every home derives the same",
        next_step="write the owner's password into DATABASE_ADMIN_URL",
    )


def embedded_login(home: Path, role: str, database: str) -> DatabaseUrl:
    """A login on the embedded Postgres of a home that was started before.

    Args:
        home: the home.
        role: the login.
        database: the database.

    Raises:
        UncheckedError: it was never started.
    """
    port = read_state(state_file(home)).get("port")
    if not isinstance(port, int):
        raise _never_started(home)
    return DatabaseUrl(ports.HOST, str(port), role, _kept(home, role), database)


def _kept(home: Path, role: str) -> str:
    found = read_secret(home, role_secret(role))
    if found is None:
        raise _never_started(home)
    return found


def _never_started(home: Path) -> UncheckedError:
    return UncheckedError(
        f"the embedded Postgres of {home} was never started", next_step="run `compline up` (or `make close`)"
    )


def superuser(home: Path) -> DatabaseUrl:
    """The embedded server's superuser, for creating roles and databases.

    Args:
        home: the home.

    Raises:
        UncheckedError: it was never started.
    """
    dsn = postgres.superuser_dsn(home)
    if dsn is None:
        raise _never_started(home)
    return parse(dsn, "the embedded server's superuser")
