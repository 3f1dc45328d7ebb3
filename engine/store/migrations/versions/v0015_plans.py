"""Plans of the close: lots looked up without comparing all with all, statistics from smaller samples."""

from engine.store.migrate import run_sql_folder

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
