"""Bring up what a book needs: servers, roles, databases. The one entry that commands and tests use.

What belongs here: the order of things. What does not: how each is done (the files beside this one), and migrations.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg

from engine.errors import ConfigError
from pipelines.local import nats, postgres, postgres_place
from pipelines.local.databases import allow_connect, allow_tables, ensure_database
from pipelines.local.files import MARKER, make_home, put_secret, secret
from pipelines.local.roles import Connection, Login, connect, ensure_member, ensure_roles, refuse_unbound
from pipelines.local.urls import (
    ADMIN,
    ALL_ROLES,
    APP,
    AUDITOR,
    BASE_DATABASE,
    COLLECTOR,
    DAGSTER,
    DBT,
    FINANCE,
    SERVICE_ROLES,
    DatabaseUrl,
    Servers,
    dagster_database,
    database_name,
    given_urls,
    resolve_servers,
    role_secret,
    service_password,
    superuser,
)
from pipelines.settings import Settings, repo_root

Talk = Callable[[str], None]
BOOK_ROLES = (APP, ADMIN, DBT, COLLECTOR, FINANCE, AUDITOR)


def ensure_servers(settings: Settings, *, talk: Talk, book: str | None = None) -> Servers:
    """Have the servers running, every role present and the book's and Dagster's databases created.

    Safe in several processes at once; on what is there already it changes nothing.

    Args:
        settings: from `load_settings`.
        talk: called with a line for a person before each thing that takes time.
        book: the book, by default the settings'.

    Raises:
        ConfigError: the settings contradict each other, or the real server's logins do not fit.
        UncheckedError: a server does not start or does not answer.
    """
    book = book or settings.book
    make_home(settings.home)
    if settings.embedded_postgres:
        _embedded(settings, book, talk)
    else:
        _real(settings, book)
    if settings.nats_url is None:
        nats.ensure_nats(settings.home, talk=talk, port=settings.nats_port)
    return resolve_servers(settings, book)


def stop_servers(home: Path) -> list[str]:
    """Stop the embedded servers of a home.

    Args:
        home: the home.

    Returns:
        The names of those that were running.
    """
    stopped = []
    if nats.stop_nats(home):
        stopped.append("NATS")
    if postgres.stop_postgres(home):
        stopped.append("Postgres")
    return stopped


def purge(home: Path) -> None:
    """Stop the embedded servers and remove the home, also what is outside it.

    A folder that held something else before (COMPLINE_HOME pointing at it) loses only what is known to be ours.

    Args:
        home: the home.
    """
    if not home.is_dir():
        return
    stop_servers(home)
    postgres_place.purge(home)
    nats.purge(home)
    if (home / MARKER).is_file() or home == repo_root() / ".compline":
        shutil.rmtree(home, ignore_errors=True)
        return
    for name in (*map(role_secret, ALL_ROLES), postgres.SUPERUSER_SECRET, nats.SECRET):
        (home / "secrets" / name).unlink(missing_ok=True)
    for path in (*home.glob("log/postgres.log*"), *home.glob("log/nats.log*"), *home.glob("*.lock")):
        path.unlink(missing_ok=True)


def _embedded(settings: Settings, book: str, talk: Talk) -> None:
    home = settings.home
    postgres.ensure_postgres(home, talk=talk, port=settings.pg_port)
    logins = [Login(role, secret(home, role_secret(role)), createdb=role == ADMIN) for role in ALL_ROLES]
    with connect(superuser(home), "the embedded Postgres") as connection:
        ensure_roles(connection, logins)
        _databases(connection, superuser(home), BASE_DATABASE, book, owner=ADMIN, more=())


def _real(settings: Settings, book: str) -> None:
    app, admin = given_urls(settings)
    with connect(admin, "DATABASE_ADMIN_URL") as connection:
        ensure_roles(connection, _real_logins(settings.home, app, admin))
        if app.user != APP:
            ensure_member(connection, APP, app.user)
        connecting = (app.user, admin.user)
        _databases(connection, admin, admin.database, book, owner=admin.user, more=connecting)
    mine = admin.on(database_name(admin.database, book))
    with connect(mine, "DATABASE_ADMIN_URL") as connection:
        refuse_unbound(connection, app.user)
    try:
        psycopg.connect(app.on(mine.database).dsn(), connect_timeout=10).close()
    except psycopg.OperationalError as error:
        raise ConfigError(
            f"DATABASE_URL ({app.on(mine.database).shown()}) cannot log in: {' '.join(str(error).split())}",
            rule="a login that exists keeps its password; a missing one is created with the URL's",
            next_step="correct DATABASE_URL's password, or drop the login to have it created",
        ) from None


def _real_logins(home: Path, app: DatabaseUrl, admin: DatabaseUrl) -> list[Login]:
    words = {role: service_password(home, admin.password, role) for role in SERVICE_ROLES}
    for role, word in words.items():
        put_secret(home, role_secret(role), word)  # a later process needs no owner's password for these
    groups = [Login(role) for role in ALL_ROLES if role not in (*SERVICE_ROLES, app.user, admin.user)]
    services = [Login(role, word) for role, word in words.items()]
    return [*groups, *services, Login(app.user, app.password or None, managed=False)]


def _databases(
    connection: Connection, url: DatabaseUrl, base: str, book: str, *, owner: str, more: tuple[str, ...]
) -> None:
    mine, dagster = database_name(base, book), dagster_database(base)
    for name in dict.fromkeys((mine, dagster)):
        ensure_database(connection, name, owner=owner)
    allow_connect(connection, mine, (*BOOK_ROLES, *more), temporary=(DBT,))
    allow_connect(connection, dagster, (DAGSTER, owner), temporary=(DAGSTER,))
    with connect(url.on(dagster), "Dagster's storage") as storage:
        allow_tables(storage, DAGSTER)
