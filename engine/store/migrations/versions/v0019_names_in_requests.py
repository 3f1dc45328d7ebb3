"""A request that names an asset or market as the engine never would is refused where it is made."""

from engine.store.migrate import run_sql_folder

revision = "0019"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
