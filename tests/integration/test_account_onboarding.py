"""Accounts that begin: onboarded once whatever the messages, or imported from the three states of before."""

from __future__ import annotations

import threading
from decimal import Decimal

import psycopg
import pytest

from engine.store import accounts
from tests.fixtures.books import BookUnderTest


def test_hundred_duplicate_events_open_one_account_in_every_asset_with_no_entries(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    owner.execute("INSERT INTO exchange.assets VALUES ('EUR', 9, 2), ('GBP', 10, 2) ON CONFLICT DO NOTHING")
    made: list[tuple[int, bool]] = []

    def tell() -> None:
        with lifecycle.app() as app:
            made.extend(accounts.onboard(app, "new-user") for _ in range(25))

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 100
    assert len({number for number, _ in made}) == 1
    assert sum(new for _, new in made) == 1
    number = made[0][0]
    with lifecycle.app() as app:
        rows = app.execute(
            "SELECT asset, balance FROM ledger.accounts WHERE user_id = %s ORDER BY 1", (number,)
        ).fetchall()
        assert rows == [("EUR", Decimal(0)), ("GBP", Decimal(0))]
        assert accounts.find(app, str(number)).state == "pending_kyc"
        asked = app.execute(
            "SELECT kind FROM exchange.command_requests WHERE payload ->> 'user_id' = %s ORDER BY request_no",
            (str(number),),
        ).fetchall()
        assert asked == [("open_account",), ("set_account",)]
        with pytest.raises(psycopg.Error, match="belong together"):
            accounts.onboard(app, "new-user", number + 1)


def test_old_three_values_keep_their_meaning_and_anything_else_stops_the_import(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    old = [(500 + n, f"old-{n}", ("active", "suspended", "banned")[n % 3]) for n in range(30)]
    with pytest.raises(psycopg.Error, match="has status 'frozen'"):
        accounts.import_users(owner, [*old, (999, "odd", "frozen")], source="users", actor="ann")
    assert owner.execute("SELECT count(*) FROM accounts.users WHERE account LIKE 'old-%'").fetchone() == (0,)
    assert accounts.import_users(owner, old, source="users", actor="ann") == 30
    assert accounts.import_users(owner, old, source="users", actor="ann") == 0
    assert owner.execute(
        "SELECT user_id, account, state FROM accounts.users WHERE account LIKE 'old-%' ORDER BY 1"
    ).fetchall() == sorted(old)
    history = owner.execute(
        "SELECT DISTINCT to_state, authority, actor, reason FROM accounts.account_state_transitions"
        " WHERE user_id BETWEEN 500 AND 529 ORDER BY 1"
    ).fetchall()
    assert history == [
        (status, "migration", "ann", f"was {status} in users") for status in ("active", "banned", "suspended")
    ]
    with pytest.raises(psycopg.Error, match="imported as banned"):
        accounts.import_users(owner, [(502, "old-2", "active")], source="users", actor="ann")
    with lifecycle.app() as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
        accounts.import_users(app, old, source="users", actor="ann")
