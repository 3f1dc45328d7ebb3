"""Bring a book's database to this version of the schema, or say that it is not there.

What belongs here: running Alembic on one database and asking where it stands.
What does not: creating databases and roles (see `pipelines.local`), and the SQL itself (see `migrations/sql`).

Alembic and SQLAlchemy are imported where a database is migrated: every command asks where one stands, and few move it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from engine.errors import ConfigError
from engine.store.connect import translate

if TYPE_CHECKING:
    from alembic.config import Config

HERE = Path(__file__).parent / "migrations"
LOCK_KEY = 0x636F6D706C696E65  # "compline"


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("version_locations", str(HERE / "versions"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def head() -> str:
    """The newest revision that this code knows: the files are named after theirs, `v<revision>_<what>.py`."""
    return max(path.name[1:5] for path in (HERE / "versions").glob("v[0-9]*_*.py"))


def run_sql_folder(revision: str) -> None:
    """Run every file of `sql/<revision>/` in name order, inside the migration's transaction."""
    from alembic import op

    for path in sorted((HERE / "sql" / revision).glob("*.sql")):
        raw = op.get_bind().connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        raw.execute(path.read_bytes())


def upgrade(admin_url: str, revision: str = "head") -> str:
    """Migrate one database as its owner; two at once wait for each other.

    Args:
        admin_url: `postgresql://…` of the owner.
        revision: where to stop; tests use it to stay behind.

    Returns:
        The revision that the database is at afterwards.

    Raises:
        UncheckedError: the server does not answer, or its disk is full.
    """
    import sqlalchemy as sa
    from alembic import command

    url = sa.make_url(admin_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
            connection.commit()
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.execute(sa.text("GRANT USAGE ON SCHEMA public TO compline_app, compline_dbt"))
            connection.execute(sa.text("GRANT SELECT ON public.alembic_version TO compline_app, compline_dbt"))
            connection.commit()
            at: object = connection.execute(sa.text("SELECT version_num FROM public.alembic_version")).scalar_one()
            connection.commit()
            return str(at)
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translate(error.orig) from error
        raise
    finally:
        engine.dispose()


def current(connection: psycopg.Connection) -> str | None:
    """The revision a database is at; None where it holds no book."""
    there = connection.execute("SELECT to_regclass('public.alembic_version') IS NOT NULL").fetchone()
    if not there or not there[0]:
        return None
    row = connection.execute("SELECT version_num FROM public.alembic_version").fetchone()
    return str(row[0]) if row else None


def require_current(connection: psycopg.Connection) -> None:
    """Refuse to work on a database of another schema version.

    Raises:
        ConfigError: the database is empty, behind, or ahead.
    """
    at = current(connection)
    if at != head():
        where = "holds no book" if at is None else f"is at schema {at}"
        raise ConfigError(
            f"database {connection.info.dbname} {where}; this version of Compline needs {head()}",
            rule="the schema and the code are of one version",
            next_step="run: compline up",
        )
