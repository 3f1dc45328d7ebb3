"""Accounts' lifecycle: states and transitions as rows, hash-chained history, obligations, holds, KYC, closure."""

from engine.store.migrate import run_sql_folder

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
