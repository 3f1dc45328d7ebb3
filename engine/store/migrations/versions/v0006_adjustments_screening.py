"""Adjustments by two people within caps, and screening against lists of versions."""

from engine.store.migrate import run_sql_folder

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
