"""${message}."""

from engine.store.migrate import run_sql_folder

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
