"""What one person may ask of an exchange that is open: listings, limits, venues' prices, checked before they stand."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import UncheckedError
from engine.exchange import history
from engine.exchange.sequencer import open_exchange
from engine.exchange.state import Registry
from engine.steps import requested
from tests.fixtures.books import BookUnderTest
from tests.fixtures.command_line import call

NEO = ("asset", "asset=NEO", "decimals=9")
LEAST = ("min_notional=5", "band_ppm=9000")
MARKET = (
    "market",
    "market=NEO-USDT",
    "base=NEO",
    "quote=USDT",
    "tick=0.01",
    "lot=0.1",
    "min_notional=5",
    "band_ppm=9000",
)
LIMITS = (
    "min_quantity=0.2",
    "max_quantity=0",
    "min_notional=0",
    "band_ppm=0",
    "slippage_ppm=7",
    "reference_max_age_s=60",
)


def ask(book: BookUnderTest, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The command, which nobody answers: nothing serves the book."""
    home, name = book.opened.settings.home, book.opened.book.name
    answer = call(home, "exchange", "request", *arguments, "--book", name)
    return answer.code, answer.said


def journal(book: BookUnderTest) -> Registry:
    """What the exchange lists once what waits is journalled, as a cut-off does it."""
    directory, card = book.opened.files.journal_dir, book.opened.card
    drain: dict[str, Any] = {"first_day": card.book.first_day, "cutoff_rule": card.policy.cutoff_rule}
    last = history.cut_offs(directory)[-1]
    with book.app(autocommit=False) as connection:
        requested.journal_requests(connection, directory, **drain, now=card.policy.cutoff_rule.instant(last.close_date))
    with open_exchange(directory, **drain) as sequencer:
        return sequencer.engine.registry


def test_listing_is_asked_for_before_anybody_serves_it_and_journalled_once(book: BookUnderTest) -> None:
    waits = UncheckedError.exit_code
    for _ in range(2):
        assert [ask(book, *NEO)[0], ask(book, *MARKET)[0]] == [waits, waits]
    assert book.value("SELECT count(*) FROM exchange.command_requests") == 2
    registry = journal(book)
    neo, market = registry.asset_by_symbol["NEO"], registry.market_by_symbol["NEO-USDT"]
    quote = registry.assets[market.quote]
    # 0.01 USDT x 0.1 NEO is 0.001 USDT; a lot is a tenth of 10^9 units.
    assert (neo.decimals, market.base_units_per_lot) == (9, 10**8)
    assert (market.base, market.quote_units_per_tick_lot) == (neo.asset, 10 ** (quote.decimals - 3))
    assert (market.limits.min_notional_units, market.limits.band_ppm) == (5 * 10**quote.decimals, 9_000)
    # Answered now, and still the same request.
    code, said = ask(book, *MARKET, *(limit for limit in LIMITS if limit[:4] not in ("min_", "band")))
    assert code == 65, said
    assert ask(book, *NEO)[1]["outcome"] == "accepted"

    assert ask(book, "market", "market=NEO-USDT", *LIMITS)[0] == waits
    limits = journal(book).market_by_symbol["NEO-USDT"].limits
    assert (limits.min_quantity_lots, limits.min_notional_units, limits.band_ppm, limits.slippage_ppm) == (2, 0, 0, 7)
    assert (limits.revision, limits.reference_max_age_us) == (2, 60_000_000)
    again = ask(book, "market", "market=NEO-USDT", "tick=0.01", *LIMITS)
    assert (again[0], again[1]["request"]) == (0, "market:NEO-USDT:2")
    assert ask(book, "reference", "market=NEO-USDT", "price=150", "at=2026-03-03T00:00:00Z")[0] == waits
    journal(book)
    query = "SELECT outcome FROM exchange.command_requests WHERE kind = 'set_reference'"
    assert book.value(query) == "accepted"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("suspend", "user_id=1"), "one person may ask for"),
        (("account_tier", "account=u-0001", "tier=1"), "one person may ask for"),
        (("asset", "decimals=9"), "no asset=NAME"),
        (("asset", "asset=NEO", "asset=NEO"), "each field once"),
        (("asset", "asset=NEO", "decimals=19"), "decimals"),
        (("asset", "asset=NEO", "decimals=9", "number=7"), "number"),
        (("asset", "asset=NEO", f"decimals={'9' * 5000}"), "decimals"),
        (("asset", "asset=USDT", "decimals=9"), "is listed"),
        (("market", "market=A..B", "base=BTC", "quote=USDT", "tick=0.01", "lot=0.1"), "A..B"),
        (("market", "market=NEW", "base=BTC", "quote=USDT", "tick=0.0000001", "lot=0.1", "band_ppm=1x"), "tick"),
        (("market", "market=NEW", "base=BTC", "quote=USDT", "tick=0.01", "lot=0.1", "band_ppm=2000000"), "invalid"),
        (("market", "market=NEW", "base=NO", "quote=USDT", "tick=0.01", "lot=0.1"), "NO"),
        (("market", "market=BTC-USDT", "band_ppm=7"), "slippage_ppm"),
        (("market", "market=BTC-USDT", "tick=7", *LIMITS), "listed"),
        (("reference", "market=NO-SUCH", "price=1"), "NO-SUCH"),
        (("reference", "market=BTC-USDT", "price=1e3"), "price"),
        (("reference", "market=BTC-USDT", "price=1", "at=yesterday"), "at="),
    ],
)
def test_what_the_exchange_would_refuse_is_never_asked(
    sealed_book: BookUnderTest, arguments: tuple[str, ...], words: str
) -> None:
    before = sealed_book.value("SELECT count(*) FROM exchange.command_requests")
    code, said = ask(sealed_book, *arguments)
    assert code in (64, 65), said
    assert words in f"{said}"
    assert sealed_book.value("SELECT count(*) FROM exchange.command_requests") == before


def test_dry_run_asks_for_nothing(sealed_book: BookUnderTest) -> None:
    before = sealed_book.value("SELECT count(*) FROM exchange.command_requests")
    code, said = ask(sealed_book, *NEO, "--dry-run")
    assert (code, said["dry_run"]) == (0, True)
    assert sealed_book.value("SELECT count(*) FROM exchange.command_requests") == before
