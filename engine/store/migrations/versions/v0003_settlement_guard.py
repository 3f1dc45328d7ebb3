"""The guard on legs in fewer passes; what it refuses is the same."""

from engine.store.migrate import run_sql_folder

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
