"""The first close: accounts, exchange, market, days, ledger, recon, seals, rights."""

from engine.store.migrate import run_sql_folder

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
