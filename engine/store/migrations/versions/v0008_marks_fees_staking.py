"""Marks at event time, venue readings, fees by user and role, tiers, staking rewards."""

from engine.store.migrate import run_sql_folder

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
