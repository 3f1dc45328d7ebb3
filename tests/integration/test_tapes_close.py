"""Real market data closed day by day: counts, books and fees against Decimal arithmetic over the tape itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.close.policy import GATES, Policy
from engine.exchange.sequencer import open_exchange
from engine.reserves.keys import generate_keys
from engine.sim.tape import Print, Selection, read_tape
from engine.sim.tape_import import import_prints
from engine.steps.settling import settle
from engine.store.books import Book
from engine.store.connect import connect
from pipelines.books import BookCard, create_book
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import BookUnderTest, drop_book, replace_book

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TRADES_2024 = DATA / "binance_trades_utc_midnight_20240808_09.parquet"
AGGREGATES_2019 = DATA / "xrp_eth_aggtrades_20191011_13.parquet"
pytestmark = pytest.mark.skipif(
    not (TRADES_2024.exists() and AGGREGATES_2019.exists()), reason=f"real market data absent: {DATA}"
)
RATE = Decimal("0.001")
FIRST_2024, FIRST_2019 = date(2024, 8, 8), date(2019, 10, 11)
MIDNIGHT_MS = 1_723_161_600_000


@dataclass(frozen=True)
class TapeRow:
    """A print as the file has it, read apart from the product's own reader."""

    market: str
    trade_id: int
    at: datetime
    price: Decimal
    quantity: Decimal
    taker_buys: bool

    @property
    def notional(self) -> Decimal:
        return self.price * self.quantity


def file_rows(path: Path) -> list[TapeRow]:
    rows = pq.read_table(path).to_pylist()
    if "timestamp" in rows[0]:
        found = [
            ("XRPETH", int(r["id"]), r["timestamp"], repr(r["price"]), repr(r["amount"]), r["side"] == "buy")
            for r in rows
        ]
    else:
        spot = [r for r in rows if r["market"] == "spot"]
        found = [(r["symbol"], r["trade_id"], r["ts_ms"], r["price"], r["qty"], not r["buyer_is_maker"]) for r in spot]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        TapeRow(market, number, epoch + timedelta(milliseconds=ms), Decimal(price), Decimal(quantity), buys)
        for market, number, ms, price, quantity, buys in found
    ]


def tape_book(settings: Settings, name: str, first_day: date, quote: str) -> BookUnderTest:
    policy = Policy(reporting_currency=quote, mark_max_age_s=86_400)
    card = BookCard(Book(name, f"{name}.tape.example", first_day), policy, 1)
    return BookUnderTest(create_book(replace_book(settings, name), card, talk=lambda line: None), generate_keys())


def bring(book: BookUnderTest, prints: list[Print]) -> Counter[date]:
    """Import prints and settle them; returns trades by close date."""
    opened = book.opened
    with open_exchange(
        opened.files.journal_dir, first_day=opened.book.first_day, cutoff_rule=opened.card.policy.cutoff_rule
    ) as sequencer:
        summary = import_prints(sequencer, prints)
    with closing(connect(opened.url, autocommit=True)) as connection:
        settle(connection, opened.files.journal_dir)
    return Counter(summary.trades_by_day)


@dataclass
class Tape:
    """A tape in a book of its own, its days sealed.

    Attributes:
        rows: what the file holds.
        sealed: close dates that were closed.
        quote: asset, which is the reporting currency.
        unit: smallest amount of the quote asset.
        by_day: trades that the imports said fell into each close date.
        late: (market, trade id) of prints that arrived late, and the close date that was open then.
    """

    book: BookUnderTest
    rows: list[TapeRow]
    sealed: list[date]
    quote: str
    unit: Decimal
    by_day: Counter[date]
    late: dict[tuple[str, int], date]

    def day_of(self, row: TapeRow) -> date:
        return self.late.get((row.market, row.trade_id), row.at.date())


@pytest.fixture(scope="module")
def tape_2019(settings: Settings, servers: Servers) -> Iterator[Tape]:
    book = tape_book(settings, "tape2019", FIRST_2019, "ETH")
    by_day = bring(book, read_tape(AGGREGATES_2019, "binance-aggtrades"))
    for day in sorted(by_day):
        assert book.close(day)[-1].status == "succeeded"
    yield Tape(book, file_rows(AGGREGATES_2019), sorted(by_day), "ETH", Decimal(1).scaleb(-18), by_day, {})
    drop_book(book)


@pytest.fixture(scope="module")
def tape_2024(settings: Settings, servers: Servers) -> Iterator[Tape]:
    """The 2024 tape; of its first day some prints arrive after the cut-off, some after the seal of one or two days."""
    book = tape_book(settings, "tape2024", FIRST_2024, "USDT")
    first, second, third = (FIRST_2024 + timedelta(days=n) for n in range(3))
    everything = read_tape(TRADES_2024, "binance-trades")
    early = [one for one in everything if one.ts_ms < MIDNIGHT_MS]
    after_cutoff, after_seal, after_both = early[-500::50], early[-490::50], early[-480::50]
    held = frozenset((one.stream, one.trade_id) for one in (*after_cutoff, *after_seal, *after_both))
    by_day = bring(book, read_tape(TRADES_2024, "binance-trades", Selection(withheld=held)))
    # The tape has crossed midnight by now: the first day is cut off, and not closed.
    by_day += bring(book, after_cutoff)
    assert book.close(first)[-1].status == "succeeded"
    by_day += bring(book, after_seal)
    assert book.close(second)[-1].status == "succeeded"
    by_day += bring(book, after_both)
    late = {
        (one.stream.split(":")[1], one.trade_id): day
        for prints, day in ((after_cutoff, second), (after_seal, second), (after_both, third))
        for one in prints
    }
    assert len(late) == 30
    yield Tape(book, file_rows(TRADES_2024), [first, second], "USDT", Decimal(1).scaleb(-8), by_day, late)
    drop_book(book)


@pytest.fixture(params=["tape_2019", "tape_2024"])
def tape(request: pytest.FixtureRequest) -> Tape:
    found: Tape = request.getfixturevalue(request.param)
    return found


def query(tape: Tape, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with tape.book.admin() as connection:
        return connection.execute(statement.encode(), values).fetchall()


def test_days_hold_as_many_trades_as_the_files_readme_says(tape_2019: Tape, tape_2024: Tape) -> None:
    assert list(tape_2019.by_day.values()) == [5929, 4134, 2414]
    assert len(tape_2024.rows) == sum(tape_2024.by_day.values()) == 34_419
    for tape in (tape_2019, tape_2024):
        rows = query(tape, "SELECT close_date, count(*) FROM exchange.trades GROUP BY 1 ORDER BY 1")
        assert dict(rows) == tape.by_day == Counter(tape.day_of(row) for row in tape.rows)


def test_every_day_is_sealed_and_every_gate_passes(tape: Tape) -> None:
    assert query(tape, "SELECT close_date FROM close.seals WHERE kind = 'day' ORDER BY log_index") == [
        (day,) for day in tape.sealed
    ]
    for day in tape.sealed:
        gates = query(tape, "SELECT gate, verdict FROM recon.gates(%s)", day)
        assert {gate for gate, _ in gates} == set(GATES)
        assert {verdict for _, verdict in gates} == {"pass"}


def test_settled_trades_are_the_tapes_under_the_date_of_their_exchange_time(tape: Tape) -> None:
    rows = query(
        tape,
        "SELECT market, close_date, effective_at, price, quantity, quote_quantity, taker_side FROM exchange.trades",
    )
    expected = Counter(
        (r.market, tape.day_of(r), r.at, r.price, r.quantity, r.notional, "buy" if r.taker_buys else "sell")
        for r in tape.rows
    )
    assert Counter(rows) == expected


def test_every_trade_has_its_journal_with_the_same_date_and_time(tape: Tape) -> None:
    assert query(
        tape,
        "SELECT count(*) FROM exchange.trades t FULL JOIN (SELECT * FROM ledger.journals WHERE kind = 'trade') j"
        " USING (posting_no) WHERE (t.close_date, t.effective_at, t.engine_seq, t.trade_id::text)"
        " IS DISTINCT FROM (j.close_date, j.effective_at, j.engine_seq, j.reference_id)",
    ) == [(0,)]


def test_late_prints_land_in_the_day_that_is_open_with_their_own_time(tape_2024: Tape) -> None:
    midnight = datetime.fromtimestamp(MIDNIGHT_MS // 1000, UTC)
    withheld = [row for row in tape_2024.rows if (row.market, row.trade_id) in tape_2024.late]
    for table, extra in (("exchange.trades", ""), ("ledger.journals", " AND kind = 'trade'")):
        found = query(
            tape_2024,
            f"SELECT close_date, effective_at FROM {table} WHERE effective_at < %s AND close_date > %s{extra}",
            midnight,
            FIRST_2024,
        )
        assert Counter(found) == Counter((tape_2024.day_of(row), row.at) for row in withheld)
    assert Counter(tape_2024.late.values()) == {tape_2024.sealed[1]: 20, tape_2024.sealed[1] + timedelta(days=1): 10}
    # The first day's seal knows nothing of them.
    assert query(tape_2024, "SELECT sum(trades) FROM ledger.fee_accruals WHERE close_date = %s", FIRST_2024) == [
        (2 * (9738 + 6098 - 30),)
    ]


def fee(tape: Tape, row: TapeRow) -> Decimal:
    """What each side of a print pays: the rate on the notional, rounded up to the quote asset's smallest unit."""
    return (row.notional * RATE).quantize(tape.unit, rounding=ROUND_CEILING)


def test_fees_of_each_day_are_those_of_the_tapes_notionals(tape: Tape) -> None:
    for day in tape.sealed:
        charged = sum((2 * fee(tape, row) for row in tape.rows if tape.day_of(row) == day), Decimal(0))
        assert charged > 0
        assert query(
            tape,
            "SELECT sum(e.amount) FROM ledger.ledger_entries e JOIN ledger.accounts a USING (account_id)"
            " WHERE e.close_date = %s AND a.account = 'fee_income' AND e.asset = %s",
            day,
            tape.quote,
        ) == [(charged,)]
        assert query(tape, "SELECT sum(amount) FROM ledger.fee_accruals WHERE close_date = %s", day) == [(charged,)]


def test_every_users_balance_is_deposits_and_trades_in_plain_decimals(tape: Tape) -> None:
    last = tape.sealed[-1]
    held: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    deposits = query(
        tape,
        "SELECT a.account, e.asset, e.amount FROM ledger.ledger_entries e JOIN ledger.journals j USING (posting_no)"
        " JOIN ledger.accounts a USING (account_id) WHERE j.kind = 'deposit' AND a.user_id IS NOT NULL"
        " AND e.close_date <= %s",
        last,
    )
    for account, asset, amount in deposits:
        held[account, asset] += amount
    sides = query(
        tape,
        "SELECT t.close_date, t.market, t.effective_at, t.price, t.quantity, t.taker_side, m.account, k.account"
        " FROM exchange.trades t JOIN accounts.users m ON m.user_id = t.maker_id"
        " JOIN accounts.users k ON k.user_id = t.taker_id",
    )
    parties: defaultdict[tuple[object, ...], list[tuple[str, str]]] = defaultdict(list)
    for *print_, maker, taker in sides:
        parties[tuple(print_)].append((maker, taker))
    for row in tape.rows:
        side = "buy" if row.taker_buys else "sell"
        maker, taker = parties[tape.day_of(row), row.market, row.at, row.price, row.quantity, side].pop()
        if tape.day_of(row) > last:
            continue
        buyer, seller = (taker, maker) if row.taker_buys else (maker, taker)
        base = row.market.removesuffix(tape.quote)
        held[buyer, base] += row.quantity
        held[seller, base] -= row.quantity
        held[buyer, tape.quote] -= row.notional + fee(tape, row)
        held[seller, tape.quote] += row.notional - fee(tape, row)
    snapshot = query(tape, "SELECT account, asset, total FROM close.user_balance_snapshots WHERE close_date = %s", last)
    assert len(snapshot) > 200
    assert {(account, asset): total for account, asset, total in snapshot} == {k: v for k, v in held.items() if v}


def test_closing_mark_is_the_last_price_by_exchange_time_also_where_a_late_print_was_sequenced_after_it(
    tape: Tape,
) -> None:
    for day in tape.sealed:
        marks = {asset: (price, at) for asset, price, at in query(
            tape, "SELECT asset, price, at FROM market.mark_prices WHERE close_date = %s", day
        )}  # fmt: skip
        assert marks.pop(tape.quote)[0] == 1
        for asset, mark in marks.items():
            known = [r for r in tape.rows if r.market == f"{asset}{tape.quote}" and tape.day_of(r) <= day]
            newest = max(known, key=lambda row: (row.at, row.trade_id))
            assert mark == (newest.price, newest.at)
