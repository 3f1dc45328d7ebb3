"""The history of accounts is verified from its rows: whatever a superuser did to one is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from engine.accounts.history import HistoryBrokenError, row_hash
from engine.accounts.matrix import BEGIN, END, markdown
from engine.clock import iso_us
from engine.store import accounts
from engine.store.account_history import verify_history, verify_in
from tests.fixtures.accounts import STATES, add_user, in_state, nobody_asks_for_conditions, superuser
from tests.fixtures.books import BookUnderTest

ROOT = Path(__file__).resolve().parents[2]
MATRIX_PAGES = ("docs/ops/accounts.md",)
ROW = "accounts.account_state_transitions"


@pytest.fixture(scope="module")
def people(lifecycle: BookUnderTest, owner: psycopg.Connection) -> list[int]:
    """Users in every state, one of them with a history of its own."""
    with lifecycle.app() as app, nobody_asks_for_conditions(owner):
        made = [in_state(app, owner, state) for state in STATES]
        busy = add_user(app)
        for state in ("suspended", "active", "restricted", "suspended", "banned", "active"):
            authority = {"banned": "legal", "active": "compliance"}.get(state, "operator")
            authority = "admin_override" if accounts.find(app, str(busy)).state == "banned" else authority
            accounts.transition(
                app, busy, state, authority=authority, actor="Ann Ö. \\ 'x'", reason="ü — €", second="bea"
            )
    return [*made, busy]


@pytest.fixture
def tampered(lifecycle: BookUnderTest) -> Iterator[psycopg.Connection]:
    """A superuser with triggers off, in a transaction that is taken back."""
    with superuser(lifecycle) as root, root.transaction(force_rollback=True):
        root.execute("SET LOCAL session_replication_role = replica")
        yield root


def test_history_holds_and_its_digest_changes_with_any_row(
    lifecycle: BookUnderTest, people: list[int], owner: psycopg.Connection
) -> None:
    with lifecycle.app() as app:
        before = verify_history(app)
        assert before.users == app.execute("SELECT count(*) FROM accounts.users").fetchone()[0]  # type: ignore[index]
        assert before.rows == app.execute(f"SELECT count(*) FROM {ROW}".encode()).fetchone()[0]  # type: ignore[index]
        assert verify_history(app) == before
        add_user(app)
        assert verify_history(app).digest != before.digest


def test_hash_of_a_row_is_the_one_that_python_makes_from_its_documented_fields(
    owner: psycopg.Connection, people: list[int]
) -> None:
    rows = owner.execute(
        "SELECT prev_hash, user_id, version, from_state, to_state, authority, actor, second_approver, reason, at,"
        f" recorded_at, row_hash FROM {ROW}".encode()
    ).fetchall()
    assert len(rows) > 15
    for prev, *fields, at, recorded, stored in rows:
        texts = ["" if field is None else str(field) for field in fields]
        parts = [prev.hex() if prev else "", *texts, iso_us(at), iso_us(recorded)]
        assert row_hash(part.encode() for part in parts).decode() == stored.hex()


@pytest.mark.parametrize(
    ("what", "version", "words"),
    [
        ("UPDATE {row} SET reason = 'other' WHERE user_id = {user} AND version = 3", 3, "not that of what it says"),
        ("UPDATE {row} SET actor = 'someone' WHERE user_id = {user} AND version = 1", 1, "not that of what it says"),
        ("UPDATE {row} SET at = at - interval '1 us' WHERE user_id = {user} AND version = 4", 4, "not that of what"),
        (
            "UPDATE {row} SET row_hash = sha256('') WHERE user_id = {user} AND version = 2",
            2,
            "not that of what it says",
        ),
        ("UPDATE {row} SET second_approver = 'zoe' WHERE user_id = {user} AND version = 7", 7, "not that of what"),
        ("DELETE FROM {row} WHERE user_id = {user} AND version = 4", 5, "row 4 is missing"),
        ("DELETE FROM {row} WHERE user_id = {user} AND version = 7", 6, "the account claims active at version 7"),
        ("UPDATE accounts.users SET state = 'banned' WHERE user_id = {user}", 7, "the account claims banned"),
        ("UPDATE accounts.users SET version = 9 WHERE user_id = {user}", 7, "the account claims active at version 9"),
        ("DELETE FROM accounts.users WHERE user_id = {user}", 7, "the account claims nothing"),
    ],
)
def test_row_that_a_superuser_altered_or_removed_is_named(
    tampered: psycopg.Connection, people: list[int], what: str, version: int, words: str
) -> None:
    tampered.execute(what.format(row=ROW, user=people[-1]).encode())
    with pytest.raises(HistoryBrokenError, match=words) as broken:
        verify_in(tampered)
    assert (broken.value.user, broken.value.version) == (str(people[-1]), str(version))


@pytest.mark.parametrize(
    ("to", "authority", "second", "words"),
    [
        ("suspended", "operator", None, "the account claims active at version 7"),
        ("pending_kyc", "operator", None, "no row of the matrix allows it"),
        ("banned", "compliance", None, "it needs two people"),
        ("banned", "compliance", " an N", "it needs two people"),
    ],
)
def test_row_that_a_superuser_appended_with_a_right_hash_is_named(
    tampered: psycopg.Connection, people: list[int], to: str, authority: str, second: str | None, words: str
) -> None:
    tampered.execute(
        f"INSERT INTO {ROW} (user_id, version, from_state, to_state, authority, actor, second_approver, reason, at,"
        " recorded_at, prev_hash, row_hash) SELECT user_id, 8, to_state, %s, %s, 'ann', %s, 'x', now(), now(),"
        f" row_hash, sha256('') FROM {ROW} WHERE user_id = %s AND version = 7".encode(),
        (to, authority, second, people[-1]),
    )
    tampered.execute(
        f"UPDATE {ROW} t SET row_hash = accounts.transition_hash(t) WHERE user_id = %s AND version = 8".encode(),
        (people[-1],),
    )
    with pytest.raises(HistoryBrokenError, match=words) as broken:
        verify_in(tampered)
    assert (broken.value.user, broken.value.version) == (str(people[-1]), "8")


def test_account_whose_whole_history_is_gone_is_named(lifecycle: BookUnderTest, people: list[int]) -> None:
    with superuser(lifecycle) as root:
        root.execute("SET session_replication_role = replica")
        root.execute("INSERT INTO accounts.users (user_id, account) VALUES (1, 'no-history')")
        try:
            with lifecycle.app() as app, pytest.raises(HistoryBrokenError, match="has no history") as broken:
                verify_history(app)
            assert broken.value.user == "1"
        finally:
            root.execute("DELETE FROM accounts.users WHERE user_id = 1")


def test_matrix_of_the_docs_is_rendered_from_the_rows_that_the_database_enforces(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        rendered = markdown(accounts.matrix(app))
    for page in MATRIX_PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        found = text[text.index(BEGIN) : text.index(END) + len(END)]
        assert found == rendered, f"put the output of `compline accounts matrix --markdown` into {page}"
