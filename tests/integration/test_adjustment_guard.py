"""What the database takes of an adjustment: nothing that two people did not approve, and that as they approved it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import psycopg
import psycopg.errors
import pytest

from engine.errors import LedgerRefusedError
from engine.store.connect import typed_errors
from pipelines.settings import Settings
from tests.fixtures.adjustments import approve_adjustment, ask, set_cap
from tests.fixtures.books import SMALL, BookUnderTest, drop_book, new_book


@pytest.fixture(scope="module")
def shared(settings: Settings, servers: object, template: None) -> Iterator[BookUnderTest]:
    """A settled book that is never closed."""
    made = new_book(settings, SMALL, name="adj")
    yield made
    drop_book(made)


DECIDE = """
    INSERT INTO accounts.adjustment_decisions
        (adjustment_id, revision, payload_sha256, maker, decision, checker, reason, cap_id)
    SELECT %(id)s, 1, %(sha)s, 'mia', %(decision)s, %(checker)s, 'r', %(cap)s"""


def test_application_cannot_forge_an_approval_or_a_cap_in_raw_sql(shared: BookUnderTest) -> None:
    book = shared
    set_cap(book, "USDT")
    asked = ask(book, "5", "X-1")
    cap = book.value("SELECT max(cap_id) FROM accounts.adjustment_caps")
    fine = {
        "id": asked.adjustment_id,
        "sha": asked.payload_sha256,
        "decision": "approved",
        "checker": "chen",
        "cap": cap,
    }
    request = "SELECT exchange.request_command('x', 'adjust', '{}')"
    with book.app() as connection:
        for statement in (
            "UPDATE accounts.adjustment_revisions SET amount = 9",
            "DELETE FROM accounts.adjustment_decisions",
            "SELECT accounts.set_adjustment_cap('USDT', 1e9, 1000000, 1e9, NULL, 'r', 'a', 'b')",
            request,
            "SET session_replication_role = replica",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(DECIDE.encode(), fine)
    with book.admin() as owner:
        for change, refused in (
            ({"checker": "mia"}, "two_people"),
            ({"cap": None}, "within_a_cap"),
            ({"sha": "0" * 64}, "of_a_revision"),
            ({"decision": "maybe", "cap": None}, "decision_check"),
        ):
            with pytest.raises(psycopg.errors.IntegrityError, match=refused):
                owner.execute(DECIDE.encode(), {**fine, **change})
        with pytest.raises(psycopg.errors.CheckViolation, match="hash_is_of_the_row"):
            owner.execute(
                "INSERT INTO accounts.adjustment_revisions SELECT adjustment_id, 2, user_id, asset, amount * 10,"
                " reason_code, reason, ticket, maker, login, at, payload_sha256 FROM accounts.adjustment_revisions"
                " WHERE ticket = 'X-1'"
            )


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"reference": "adj/goodwill/999"}, "nobody approved"),
        ({"reference": "anything"}, "nobody approved"),
        ({"type": "deposit"}, "nobody approved"),
        ({"actor": "settlement"}, "another actor or reason"),
        ({"reason": "adjust"}, "another actor or reason"),
        ({"amount": "50"}, "approved was"),
        ({"other": "opening_equity"}, "approved was"),
        ({}, None),
    ],
)
def test_ledger_takes_an_adjustment_only_as_it_was_approved(
    shared: BookUnderTest, change: dict[str, str], refused: str | None
) -> None:
    if shared.value("SELECT count(*) FROM accounts.adjustment_caps WHERE asset = 'ETH'") == 0:
        set_cap(shared, "ETH")
    reference = approve_adjustment(
        shared, 5, "ETH", "5", f"raw-{refused or 'fine'}-{len(str(change))}".replace(" ", "-")
    )
    said = {
        "reference": reference,
        "type": "admin_adjustment",
        "actor": "mia, approved by chen",
        "reason": "promised",
        "amount": "5",
        "other": "adjustment_expense",
        **change,
    }
    with shared.app(autocommit=False) as connection:
        name = connection.execute("SELECT account FROM accounts.users WHERE user_id = 5").fetchone()
        assert name is not None
        ids = {
            row[0]: row[2]
            for row in connection.execute(
                "SELECT * FROM ledger.ensure_accounts(%s, %s)", ([name[0], said["other"]], ["ETH", "ETH"])
            )
        }
        number = connection.execute("SELECT ledger.reserve_postings(1)").fetchone()
        assert number is not None
        connection.execute(
            "INSERT INTO ledger.journals (posting_no, kind, reference_type, reference_id, engine_seq, effective_at,"
            " close_date, origin, actor, reason, row_hash) SELECT %s, 'adjust', %s, %s, 1, now(), max(close_date),"
            " 'engine', %s, %s, sha256('x') FROM close.days WHERE state = 'open'",
            (number[0], said["type"], said["reference"], said["actor"], said["reason"]),
        )
        connection.execute(
            "INSERT INTO ledger.ledger_entries SELECT %s, max(d.close_date), x.id, 'ETH', x.amount FROM close.days d,"
            " unnest(%s::bigint[], %s::numeric[]) AS x (id, amount) WHERE d.state = 'open' GROUP BY x.id, x.amount",
            (number[0], [ids[name[0]], ids[said["other"]]], [Decimal(said["amount"]), -Decimal(said["amount"])]),
        )
        if refused is None:
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            connection.rollback()
            return
        with pytest.raises(LedgerRefusedError, match=refused), typed_errors():
            connection.commit()
