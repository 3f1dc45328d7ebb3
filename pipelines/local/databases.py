"""Databases on the server, embedded or real, and who may connect to which.

What belongs here: creating a book's database and Dagster's. What does not: what is in them (the migrations).
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from engine.errors import ConfigError
from pipelines.local.roles import LOCK_KEY, Connection, retried


def ensure_database(connection: Connection, name: str, *, owner: str) -> bool:
    """Create a database if it is not there.

    Text is compared by code point on every server, so that an ORDER BY that feeds a hash has one order.

    Args:
        connection: as the superuser or as the owner itself; autocommit.
        name: the database.
        owner: its owner.

    Returns:
        Whether this call created it.

    Raises:
        ConfigError: it belongs to another role, or this login may not create it.
    """
    found = connection.execute(
        "SELECT pg_has_role(%s::name, datdba, 'MEMBER'), pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s",
        [owner, name],
    ).fetchone()
    if found is not None:
        if found[0] is not True:
            raise ConfigError(
                f"database {name} belongs to {found[1]}, not to {owner}",
                rule="the migrator owns the book's database",
                next_step=f"as a superuser: ALTER DATABASE {name} OWNER TO {owner}",
            )
        return False
    statement = sql.SQL(
        "CREATE DATABASE {} {} TEMPLATE template0 ENCODING 'UTF8'"
        " LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
    ).format(
        sql.Identifier(name),
        sql.SQL("") if owner == connection.info.user else sql.SQL("OWNER {}").format(sql.Identifier(owner)),
    )
    try:
        connection.execute(statement)
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return False  # another process was first
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigError(
            f"database {name} does not exist, and {connection.info.user} may not create it",
            next_step=f"as a superuser: CREATE DATABASE {name} OWNER {owner}, or ALTER ROLE {owner} CREATEDB",
        ) from None
    return True


def allow_connect(connection: Connection, name: str, roles: Iterable[str], *, temporary: Iterable[str] = ()) -> None:
    """Let only these roles connect. Nobody else may create temporary tables, which could shadow names of the guard.

    Args:
        connection: as the superuser or the owner; autocommit.
        name: the database.
        roles: who may connect.
        temporary: who of them may create temporary tables.
    """
    database = sql.Identifier(name)

    def work() -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
            # The catalogue is written only where it differs: `up` on a running server changes nothing.
            wanted = {(role, "CONNECT") for role in roles} | {(role, "TEMPORARY") for role in temporary}
            for grantee, privilege in _granted(connection, name):
                if grantee == "public":
                    connection.execute(
                        sql.SQL("REVOKE {} ON DATABASE {} FROM PUBLIC").format(sql.SQL(str(privilege)), database)
                    )
            for role, privilege in sorted(wanted - _granted(connection, name)):
                connection.execute(
                    sql.SQL("GRANT {} ON DATABASE {} TO {}").format(sql.SQL(privilege), database, sql.Identifier(role))
                )

    retried(work)


def _granted(connection: Connection, name: str) -> set[tuple[str, str]]:
    rows = connection.execute(
        "SELECT CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_get_userbyid(a.grantee) END, a.privilege_type"
        " FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a WHERE d.datname = %s",
        [name],
    )
    return {(str(grantee), str(privilege)) for grantee, privilege in rows}


def allow_tables(connection: Connection, role: str) -> None:
    """Let a role create tables in the connected database's schema public: Dagster makes its own there.

    Args:
        connection: as the superuser or the owner, on that database; autocommit.
        role: the login.
    """
    row = connection.execute("SELECT has_schema_privilege(%s::name, 'public', 'CREATE')", [role]).fetchone()
    if row == (True,):
        return

    def work() -> None:
        connection.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(sql.Identifier(role)))

    retried(work)
