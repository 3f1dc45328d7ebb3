"""What the asset checks ask of whoever assembles them, and what they show alike.

What belongs here: the protocol of the `close` resource as checks see it, runbook links, tables.
What does not: the checks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
import psycopg

RUNBOOKS = Path(__file__).resolve().parents[1] / "docs" / "runbooks"


class BookResource(Protocol):
    """Opens the book that a run closes."""

    def connect(self) -> psycopg.Connection:
        """A connection as the application."""
        ...

    def sqlalchemy_url(self) -> str:
        """The same for SQLAlchemy; secret."""
        ...


def runbook(check: str) -> dg.MetadataValue:
    """The page to open when a check does not pass.

    Args:
        check: its name; the page has the same.
    """
    return dg.MetadataValue.path(str(RUNBOOKS / f"{check}.md"))


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Rows as a table of text; their first row names the columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    schema = dg.TableSchema(columns=[dg.TableColumn(name, "string") for name in names])
    records = [dg.TableRecord({name: text(row.get(name)) for name in names}) for row in rows]
    return dg.MetadataValue.table(records, schema=schema)


def text(value: Any) -> str:
    """A value as a person reads it; amounts arrive as text and stay as they are."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)
