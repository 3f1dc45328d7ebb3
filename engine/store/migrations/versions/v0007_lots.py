"""Lots, realised and unrealised P&L, and the two identities that hold them to the ledger."""

from engine.store.migrate import run_sql_folder

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
