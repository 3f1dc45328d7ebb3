"""The reserves side: attested addresses, the ratio as a gate, key rotations; debit balances are no debts."""

from engine.store.migrate import run_sql_folder

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the SQL of this revision."""
    run_sql_folder(revision)
