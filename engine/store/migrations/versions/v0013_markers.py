"""Comparisons at markers: engine and ledger while trading goes on."""

from engine.store.migrate import run_sql_folder

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
