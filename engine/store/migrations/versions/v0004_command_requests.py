"""Command requests: how the database asks the engine for a journalled command; fee tiers as settlement saw them."""

from engine.store.migrate import run_sql_folder

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
