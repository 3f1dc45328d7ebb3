"""Marks at event time: the last tick at or before an event, fresh, and never of what was sequenced later."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

from tests.fixtures.books import BookUnderTest


def test_mark_of_the_reporting_currency_is_one(sealed_book: BookUnderTest) -> None:
    assert sealed_book.value("SELECT market.mark_at('USDT', '2026-03-02T10:00Z')") == 1


def test_mark_at_an_event_is_the_last_trade_up_to_its_sequence(sealed_book: BookUnderTest) -> None:
    with sealed_book.app() as connection:
        trades = connection.execute(
            "SELECT engine_seq, effective_at, price FROM exchange.trades WHERE market = 'BTC-USDT'"
            " ORDER BY engine_seq, fill_index"
        ).fetchall()
        assert len(trades) > 10
        for (seq, at, price), (after, _, _) in pairwise(trades[:20]):
            if seq == after:
                continue
            found = connection.execute("SELECT market.mark_at('BTC', %s, %s)", (at, seq)).fetchone()
            assert found == (price,)
            later = at + timedelta(hours=23)
            assert connection.execute("SELECT market.mark_at('BTC', %s, %s)", (later, seq)).fetchone() == (price,)


def test_mark_before_the_first_trade_or_past_its_age_is_none(sealed_book: BookUnderTest) -> None:
    first = sealed_book.value("SELECT min(effective_at) FROM exchange.trades WHERE market = 'BTC-USDT'")
    last = sealed_book.value("SELECT max(effective_at) FROM exchange.trades WHERE market = 'BTC-USDT'")
    before = "SELECT market.mark_at('BTC', %s::timestamptz - interval '1 microsecond')"
    assert sealed_book.value(before, first) is None
    day = "SELECT market.mark_at('BTC', %s::timestamptz + interval '1 day')"
    assert isinstance(sealed_book.value(day, last), Decimal)
    assert sealed_book.value(day.replace("1 day", "1 day 1 microsecond"), last) is None
    assert sealed_book.value("SELECT market.mark_at('NONE', %s)", last) is None
