"""Command requests: asked inside a deciding transaction, once per key, by the owner's functions alone."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.fixtures.books import BookUnderTest, MakeBook

SUSPEND = {"user_id": 1, "state": "suspended", "holds": ["break"]}


def request(connection: psycopg.Connection, key: str, kind: str, payload: dict[str, Any]) -> None:
    connection.execute("SELECT exchange.request_command(%s, %s, %s)", (key, kind, json.dumps(payload)))


def rows(book: BookUnderTest) -> list[tuple[Any, ...]]:
    with book.admin() as connection:
        return connection.execute(
            "SELECT request_key, kind, reference, outcome, engine_seq FROM exchange.command_requests"
            " ORDER BY request_no"
        ).fetchall()


def test_same_request_again_has_no_effect_and_another_payload_is_refused(make_book: MakeBook) -> None:
    book = make_book(None)
    with book.admin() as owner:
        request(owner, "k1", "set_account", SUSPEND)
        request(owner, "k1", "set_account", dict(reversed(SUSPEND.items())))
        for key, kind, payload in (
            ("k1", "set_account", {**SUSPEND, "user_id": 2}),
            ("k1", "cancel_all", {"user_id": 1}),
        ):
            with pytest.raises(psycopg.Error, match="differs from request k1") as refused:
                request(owner, key, kind, payload)
            assert refused.value.sqlstate == "CL017"
        reversal = {"user_id": 1, "asset": "USDT", "amount": "1.5", "reference": "tx-9"}
        request(owner, "k2", "deposit_reversed", reversal)
        with pytest.raises(psycopg.Error, match="differs from request k2"):
            request(owner, "k3", "deposit_reversed", reversal)
        with owner.transaction(force_rollback=True):
            request(owner, "k4", "set_account", SUSPEND)
    assert rows(book) == [
        ("k1", "set_account", "k1", None, None),
        ("k2", "deposit_reversed", "tx-9", None, None),
    ]


@pytest.mark.parametrize(
    ("key", "kind", "payload", "why"),
    [
        ("k", "set_accounts", SUSPEND, "no kind set_accounts"),
        ("k", "set_account", {"user_id": 1, "holds": []}, "field state is missing"),
        ("k", "set_account", {**SUSPEND, "hold": "break"}, "field hold is unknown"),
        ("k", "set_account", {**SUSPEND, "holds": ["whim"]}, "field holds holds"),
        ("k", "set_account", {**SUSPEND, "holds": "break"}, "field holds holds"),
        ("k", "set_account", {**SUSPEND, "state": "frozen"}, "field state holds"),
        ("k", "set_account", {**SUSPEND, "user_id": "1"}, "field user_id holds"),
        ("k", "set_account", {**SUSPEND, "user_id": 0}, "field user_id holds"),
        ("k", "adjust", {"user_id": 1, "asset": "USDT", "amount": 1.5}, "field amount holds"),
        ("k", "adjust", {"user_id": 1, "asset": "USDT", "amount": "NaN"}, "field amount holds"),
        ("k", "adjust", {"user_id": 1, "asset": "USDT", "amount": "0.0000000000000000001"}, "field amount holds"),
        ("k", "adjust", {"user_id": 1, "asset": "", "amount": "1"}, "field asset holds"),
        ("k", "reward", {"user_id": 1, "asset": "USDT", "amount": "-1"}, "not positive"),
        ("k k", "set_account", SUSPEND, "its key"),
        ("k" * 65, "set_account", SUSPEND, "its key"),
    ],
)
def test_request_that_can_be_no_command_is_refused_where_it_is_made(
    sealed_book: BookUnderTest, key: str, kind: str, payload: dict[str, Any], why: str
) -> None:
    with sealed_book.admin() as owner, owner.transaction(force_rollback=True):
        with pytest.raises(psycopg.Error, match=why) as refused:
            request(owner, key, kind, payload)
        assert refused.value.sqlstate == "CL018"


def test_request_is_asked_once_answered_once_and_never_deleted(make_book: MakeBook) -> None:
    book = make_book(None)
    with book.admin() as owner:
        request(owner, "k1", "set_account", SUSPEND)
        with book.app() as app:
            answer = "SELECT exchange.answer_requests(ARRAY['set_account'], ARRAY['k1'], ARRAY[7]::bigint[], ARRAY[%s])"
            assert app.execute(answer.encode(), ("accepted",)).fetchone() == (1,)
            assert app.execute(answer.encode(), ("unknown_account",)).fetchone() == (0,)
        for statement in (
            "UPDATE exchange.command_requests SET outcome = 'unknown_account'",
            "UPDATE exchange.command_requests SET payload = '{}'",
            "DELETE FROM exchange.command_requests",
            "TRUNCATE exchange.command_requests",
        ):
            with pytest.raises(psycopg.Error) as refused:
                owner.execute(statement.encode())
            assert refused.value.sqlstate == "CL003"
    assert rows(book) == [("k1", "set_account", "k1", "accepted", 7)]


def test_application_cannot_ask_by_itself(sealed_book: BookUnderTest) -> None:
    with sealed_book.app() as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
        request(app, "k1", "set_account", SUSPEND)
