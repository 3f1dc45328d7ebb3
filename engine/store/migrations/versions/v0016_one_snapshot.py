"""Gates against other sources are judged in one snapshot; a lease is lost to a successor, not to the clock."""

from engine.store.migrate import run_sql_folder

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
