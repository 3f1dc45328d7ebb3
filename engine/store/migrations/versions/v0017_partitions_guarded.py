"""Partitions of the ledger carry its guards themselves; settlement's later batch waits inside the database."""

from engine.store.migrate import run_sql_folder

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
