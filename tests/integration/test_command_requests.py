"""Command requests: asked inside a deciding transaction, once per key, by the owner's functions alone."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from engine.exchange import commands as cmd
from engine.exchange import history
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.live import mark_live
from engine.exchange.requests import identity_of
from engine.exchange.sequencer import open_exchange
from engine.steps import requested
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
        ("k", "set_asset", {"asset": "A..B", "number": 9, "decimals": 2}, "field asset holds"),
        ("k", "cancel_all", {"user_id": 1, "market": "A-B."}, "field market holds"),
        ("k", "cancel_all", {"user_id": 1, "market": "A" * 33}, "field market holds"),
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


# Where no service runs, the cut-off of a close journals what was asked for.


def commands(book: BookUnderTest) -> list[tuple[tuple[str, str] | None, cmd.Command]]:
    with JournalReader(journal_path(book.opened.files.journal_dir)) as reader:
        return [(identity_of(record.command), record.command) for record in reader.records()]


def journalled(book: BookUnderTest, key: str) -> list[cmd.Command]:
    return [command for identity, command in commands(book) if identity is not None and identity[1] == key]


NEW_MARKET = {
    "market": "NEW-USDT",
    "number": 77,
    "base": "NEW",
    "quote": "USDT",
    "base_units_per_lot": "1",
    "quote_units_per_tick_lot": 10,
    "revision": 0,
}


def ask_for_everything(book: BookUnderTest) -> list[str]:
    """One request of each outcome; keys in the order of asking."""
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("s1", "set_account", SUSPEND),
        ("c1", "cancel_all", {"user_id": 1}),
        ("t1", "set_tier", {"tier": 3, "maker_rate_ppm": 10, "taker_rate_ppm": 40}),
        ("t2", "set_account_tier", {"user_id": 2, "tier": 3}),
        ("p1", "set_reference", {"market": "BTC-USDT", "price": "60000.123456789", "at": "2030-01-01T00:00:00Z"}),
        ("o1", "open_account", {"user_id": 7001, "account": "late-comer"}),
        ("a1", "set_asset", {"asset": "NEW", "number": 77, "decimals": 3}),
        ("m1", "set_market", NEW_MARKET),
        ("m2", "set_market", {**NEW_MARKET, "revision": 1, "band_ppm": 9, "min_notional": "0.5"}),
        ("x7", "set_market", {**NEW_MARKET, "number": 78, "market": "NEW-USDT3", "base_units_per_lot": "3"}),
        ("x1", "set_account", {**SUSPEND, "user_id": 999_999}),
        ("x2", "set_tier", {"tier": 4, "maker_rate_ppm": 90, "taker_rate_ppm": 40}),
        ("x3", "reward", {"user_id": 2, "asset": "NOSUCH", "amount": "1"}),
        ("x4", "reward", {"user_id": 2, "asset": "USDT", "amount": "0.000000000000000001"}),
        ("x5", "deposit_reversed", {"user_id": 2, "asset": "USDT", "amount": "1", "reference": "no-such-tx"}),
        ("x6", "cancel_all", {"user_id": 2, "market": "NO-SUCH"}),
    ]
    with book.admin() as owner:
        for key, kind, payload in asked:
            request(owner, key, kind, payload)
    return [key for key, _, _ in asked]


OUTCOMES = {
    "x1": "unknown_account",
    "x2": "invalid_configuration",
    "x3": "unknown_asset",
    "x4": "invalid_request",
    "x5": "unknown_deposit",
    "x6": "unknown_market",
    "x7": "invalid_request",
}


NEVER = ("x4", "x7")
"""Requests that can be no command."""


def test_close_journals_requests_once_in_order_into_the_open_day_at_the_books_own_time(book: BookUnderTest) -> None:
    directory = book.opened.files.journal_dir
    cuts = history.cut_offs(directory)
    before = len(commands(book))
    keys = ask_for_everything(book)
    assert book.close(book.days[0])[-1].step == "evidence_packs"
    said = {key: (outcome, seq) for key, _, _, outcome, seq in rows(book)}
    assert {key: said[key][0] for key in keys} == {key: OUTCOMES.get(key, "accepted") for key in keys}
    seqs = [said[key][1] for key in keys if key not in NEVER]
    assert [said[key][1] for key in NEVER] == [None, None]
    assert seqs == list(range(before + 1, before + len(seqs) + 1))
    # A demo's days lie behind: at the clock's time these requests would have cut off every day since.
    assert history.cut_offs(directory) == cuts
    engine = history.state_at(directory, before + len(seqs))
    assert engine.registry.accounts[1].state == cmd.AccountState.SUSPENDED
    assert not engine.registry.accounts[1].may_trade
    assert engine.state.rates(2) == (10, 40)
    assert engine.registry.accounts[7001].name == "late-comer"
    assert engine.registry.market_by_symbol["NEW-USDT"].limits == cmd.MarketLimits(0, 0, 500_000, 9, 0, 0, 1)
    assert book.value("SELECT count(*) FROM exchange.markets WHERE market = 'NEW-USDT'") == 1
    assert book.value("SELECT count(*) FROM exchange.user_tiers WHERE user_id = 2 AND tier = 3") == 1
    # An old day closed again leaves what was asked for since to the next open day.
    with book.admin() as owner:
        request(owner, "later", "cancel_all", {"user_id": 3})
    assert all(result.unchanged for result in book.close(book.days[0])[:1])
    assert journalled(book, "later") == []
    book.close(book.days[1])
    assert len(journalled(book, "later")) == 1
    named_by_key = [key for key in keys if key not in (*NEVER, "o1", "x5", "a1", "m1", "m2")]
    assert [len(journalled(book, key)) for key in named_by_key] == [1] * len(named_by_key)
    assert len(journalled(book, "NEW-USDT:1")) == 1


@pytest.mark.parametrize("killed_at", ["before the journal", "before the answers"])
def test_close_that_dies_while_it_journals_requests_journals_each_once(
    book: BookUnderTest, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    directory = book.opened.files.journal_dir
    keys = ask_for_everything(book)

    class Killed(BaseException):
        pass

    real, calls = requested.settle, 0

    def settle(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (1 if killed_at == "before the journal" else 2):
            raise Killed
        return real(*args, **more)

    monkeypatch.setattr(requested, "settle", settle)
    with book.closing(book.days[0]) as context, book.app(autocommit=False) as connection:
        drain = {"first_day": context.book.first_day, "cutoff_rule": context.policy.cutoff_rule, "now": context.now}
        with pytest.raises(Killed):
            requested.journal_requests(connection, directory, **drain)
        connection.rollback()
        assert {outcome for _, _, _, outcome, _ in rows(book)} <= {None, "invalid_request"}
        left = {"before the journal": len(keys), "before the answers": 0}[killed_at]
        assert requested.journal_requests(connection, directory, **drain) == left
        assert requested.journal_requests(connection, directory, **drain) == 0
    assert {key: outcome for key, _, _, outcome, _ in rows(book)} == {k: OUTCOMES.get(k, "accepted") for k in keys}
    assert len(journalled(book, "s1")) == len(journalled(book, "x1")) == len(journalled(book, "no-such-tx")) == 1


def test_request_of_a_served_book_gets_the_clocks_time_and_a_held_journal_is_left_alone(book: BookUnderTest) -> None:
    directory = book.opened.files.journal_dir
    with book.admin() as owner:
        request(owner, "k1", "cancel_all", {"user_id": 1})
    with book.closing(book.days[0]) as context, book.app(autocommit=False) as connection:
        cuts = history.cut_offs(directory)
        drain: dict[str, Any] = {"first_day": context.book.first_day, "cutoff_rule": context.policy.cutoff_rule}
        with open_exchange(directory, **drain):
            assert requested.journal_requests(connection, directory, **drain, now=context.now) == 0
        mark_live(directory)
        later = context.policy.cutoff_rule.instant(cuts[-1].close_date + timedelta(days=3))
        assert requested.journal_requests(connection, directory, **drain, now=later) == 1
    assert len(history.cut_offs(directory)) == len(cuts) + 3
    with JournalReader(journal_path(directory)) as reader:
        assert reader.tail().seq == book.value("SELECT engine_seq FROM exchange.command_requests")


def test_journal_of_a_requested_reward_names_who_asked_and_takes_from_rewards_payable(book: BookUnderTest) -> None:
    words = {"actor": "staking of 2026-03-02", "reason": "share of the pot"}
    with book.admin() as owner:
        request(owner, "reward/1", "reward", {"user_id": 2, "asset": "USDT", "amount": "1.25", **words})
    with book.closing(book.days[0]) as context, book.app(autocommit=False) as connection:
        drain = {"first_day": context.book.first_day, "cutoff_rule": context.policy.cutoff_rule, "now": context.now}
        assert requested.journal_requests(connection, book.opened.files.journal_dir, **drain) == 1
    with book.admin() as owner:
        found = owner.execute(
            "SELECT j.kind, j.reference_id, j.actor, j.reason, e.amount::text FROM ledger.journals j"
            " JOIN ledger.ledger_entries e USING (posting_no, close_date) JOIN ledger.accounts a USING (account_id)"
            " WHERE a.account = 'rewards_payable'"
        ).fetchall()
    assert found == [("reward", "reward/1", words["actor"], words["reason"], "-1.250000000000000000")]
