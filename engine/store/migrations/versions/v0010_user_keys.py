"""Users' own keys of the proof of reserves: each is given once, and again only for a reason."""

from engine.store.migrate import run_sql_folder

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
