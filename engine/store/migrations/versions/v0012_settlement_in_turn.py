"""Two settlement transactions at once: their posting numbers stay in the order of their sequences."""

from engine.store.migrate import run_sql_folder

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
