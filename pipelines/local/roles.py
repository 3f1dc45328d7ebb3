"""Logins on the server, embedded or real, and the refusal of logins that the guard would not bind.

What belongs here: roles of the cluster. What does not: databases (`databases`), and rights on schemas and tables, which
the migrations grant.

Every function may run in several processes at once and any number of times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from engine.errors import ConfigError, UncheckedError
from pipelines.local.urls import DatabaseUrl

MIN_VERSION = 170000
LOCK_KEY = 0x636F6D706C696E65  # "compline"
# Predefined roles that reach past the grants on tables, or past the database altogether.
OVERRIDING = ("pg_write_all_data", "pg_write_server_files", "pg_execute_server_program")

Connection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True)
class Login:
    """A role that must exist.

    Args:
        name: its name.
        password: None for a group that nobody logs in as; not in the repr.
        createdb: whether it may create databases.
        managed: whether its password is ours to set also where the role exists already.
    """

    name: str
    password: str | None = field(default=None, repr=False)
    createdb: bool = False
    managed: bool = True


def connect(url: DatabaseUrl, setting: str) -> Connection:
    """Connect as an owner; to database `postgres` where the URL's does not exist yet.

    Args:
        url: the owner's or the superuser's URL.
        setting: what to name in messages.

    Raises:
        UncheckedError: the server is down or refuses the login.
    """
    try:
        return psycopg.connect(url.dsn(), autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        try:
            return psycopg.connect(url.on("postgres").dsn(), autocommit=True, connect_timeout=10)
        except psycopg.OperationalError:
            raise UncheckedError(
                f"{setting} ({url.shown()}) does not answer: {' '.join(str(error).split())}",
                next_step="start the server (`compline up` for the embedded one), or correct the setting",
            ) from None


def require_version(connection: Connection) -> int:
    """The server's version as a number such as 180004, if Compline can run on it.

    Args:
        connection: any.

    Raises:
        ConfigError: it is older than Postgres 17, which brought `transaction_timeout`.
    """
    version = connection.info.server_version
    if version < MIN_VERSION:
        raise ConfigError(
            f"the server is Postgres {version // 10000}",
            rule="Postgres 17 or newer: the hard timeout of a step is transaction_timeout",
            next_step="point DATABASE_URL and DATABASE_ADMIN_URL at a newer server, or unset both",
        )
    return version


def ensure_roles(connection: Connection, logins: list[Login]) -> None:
    """Create the roles that are missing, and give logins their passwords.

    Args:
        connection: as the superuser, or as an owner that may create roles; autocommit.
        logins: every role with its password.

    Raises:
        ConfigError: a role is missing and this login may not create it, or the server is too old.
    """
    require_version(connection)

    def work() -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
            for login in logins:
                _ensure_role(connection, login)

    retried(work)


def retried(work: Callable[[], None]) -> None:
    """Run work on the cluster's catalogue again while another process changes the same row.

    The advisory lock keeps two callers on one database apart; catalogues are shared by all databases of the cluster.

    Args:
        work: idempotent, in a transaction of its own.
    """
    for _ in range(9):
        try:
            return work()
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass
        except psycopg.errors.InternalError_ as error:
            if "concurrently" not in str(error):
                raise
        time.sleep(0.1)
    return work()


def _ensure_role(connection: Connection, login: Login) -> None:
    found = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [login.name]).fetchone()
    if found is not None and (login.password is None or not login.managed or _logs_in(connection, login)):
        return
    try:
        if found is None:
            options = sql.SQL("CREATEDB" if login.createdb else "NOCREATEDB")
            connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(login.name), options))
        if login.password is not None:
            # Hashed here, so that the server's log never sees a password.
            verifier = connection.pgconn.encrypt_password(
                login.password.encode(), login.name.encode(), b"scram-sha-256"
            )
            connection.execute(
                sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(login.name), sql.Literal(verifier.decode())
                )
            )
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigError(
            f"role {login.name} {'is missing' if found is None else 'has another password'}, "
            f"and {connection.info.user} may not {'create it' if found is None else 'change it'}",
            rule="DATABASE_ADMIN_URL's login creates the roles that the migrations grant to",
            next_step=f"as a superuser: ALTER ROLE {connection.info.user} CREATEROLE"
            + ("" if found is None else f"; GRANT {login.name} TO {connection.info.user} WITH ADMIN OPTION"),
        ) from None


def _logs_in(connection: Connection, login: Login) -> bool:
    given = {"user": login.name, "password": login.password or ""}
    parameters = {**connection.info.get_parameters(), **given}
    try:
        psycopg.connect(make_conninfo(**parameters), connect_timeout=10).close()
    except psycopg.OperationalError as error:
        return "permission denied for database" in str(error)  # said only after the password held
    return True


def ensure_member(connection: Connection, group: str, login: str) -> None:
    """Make a login a member of a group, whose rights it then has.

    Args:
        connection: as for `ensure_roles`.
        group: for example compline_app.
        login: for example the login in DATABASE_URL.

    Raises:
        ConfigError: this login may not grant that group.
    """

    def work() -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
            row = connection.execute("SELECT pg_has_role(%s::name, %s::name, 'USAGE')", [login, group]).fetchone()
            if row != (True,):
                connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(login)))

    try:
        retried(work)
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigError(
            f"{connection.info.user} may not grant {group} to {login}",
            next_step=f"as a superuser: GRANT {group} TO {login}",
        ) from None


def refuse_unbound(connection: Connection, login: str) -> None:
    """Refuse an application login that the database's guard would not bind.

    Args:
        connection: the owner's, on the book's database.
        login: the application's login.

    Raises:
        ConfigError: it is a superuser, passes row security, is in a role that overrides grants, or owns or may act as
            the owner of the database or of anything in it.
    """
    for reason, query, values in (
        ("is a superuser", "SELECT rolsuper FROM pg_roles WHERE rolname = %s", [login]),
        ("has BYPASSRLS", "SELECT rolbypassrls FROM pg_roles WHERE rolname = %s", [login]),
        ("can create roles", "SELECT rolcreaterole FROM pg_roles WHERE rolname = %s", [login]),
        (
            "is a member of a role that overrides grants",
            "SELECT bool_or(pg_has_role(%s::name, oid, 'MEMBER')) FROM pg_roles WHERE rolname = ANY(%s)",
            [login, list(OVERRIDING)],
        ),
        (
            "owns the database, or may act as its owner",
            "SELECT pg_has_role(%s::name, datdba, 'MEMBER') FROM pg_database WHERE datname = current_database()",
            [login],
        ),
        (
            "owns a schema, table or function of it, or may act as the owner",
            "SELECT bool_or(pg_has_role(%s::name, o.owner, 'MEMBER')) FROM ("
            " SELECT nspowner FROM pg_namespace WHERE nspname !~ '^pg_temp|^pg_toast_temp'"
            " UNION SELECT relowner FROM pg_class WHERE relpersistence <> 't'"
            " UNION SELECT proowner FROM pg_proc) AS o(owner)",
            [login],
        ),
    ):
        if connection.execute(query, values).fetchone() == (True,):
            raise ConfigError(
                f"the login {login} in DATABASE_URL {reason}",
                rule="triggers and grants guard the ledger; they do not bind such a login",
                next_step="give DATABASE_URL a plain login, such as compline_app (it is created if it is missing)",
            )
