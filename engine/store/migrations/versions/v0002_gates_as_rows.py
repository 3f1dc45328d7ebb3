"""Gates as rows: what judges a day is a table, so that later revisions add to it."""

from engine.store.migrate import run_sql_folder

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
