"""Reopening: a sealed day becomes version n+1 by two people, and takes the later days with it."""

from engine.store.migrate import run_sql_folder

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
