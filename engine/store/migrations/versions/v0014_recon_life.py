"""Revision 0014: the house's own wallets, tolerances by two people, breaks seen again, readings after a seal."""

from engine.store.migrate import run_sql_folder

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
