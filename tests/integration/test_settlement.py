"""Settlement of the engine's events: in order, once, whole or not at all."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal, localcontext
from pathlib import Path

import psycopg
import pytest

from engine.clock import from_us, iso_us
from engine.errors import LedgerRefusedError
from engine.exchange import history
from engine.exchange.events import Side, Trade, Transfer
from engine.sim.demo import load_demo
from engine.steps.settling import settle
from engine.store import copy_binary, postings, settlement, settlement_rows
from engine.store.settlement import Settler
from engine.store.settlement_pipeline import settle_all
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook, drop_book, new_book
from tests.fixtures.settlement import Groups, flat, rewind

Stream = tuple[Groups, Callable[[], Settler]]
Part = tuple[BookUnderTest, Groups, Callable[[], Settler]]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of the small demo exchange."""
    directory = tmp_path_factory.mktemp("exchange")
    load_demo(directory, SMALL)
    return directory


@pytest.fixture(scope="module")
def stream(journal: Path) -> tuple[Groups, Callable[[], Settler]]:
    """All events of that exchange by command, and a maker of settlers that know its names."""
    with history.events_from(journal, 0) as events:
        groups = list(events)
        registry = events.registry
    return groups, lambda: Settler(registry)


@pytest.fixture(scope="module")
def settled(settings: Settings, servers: Servers) -> Iterator[BookUnderTest]:
    """A book with all of it settled; what is tried on it is refused."""
    made = new_book(settings, SMALL, name="settled")
    yield made
    drop_book(made)


@pytest.fixture(scope="module")
def settled_in_part(settings: Settings, servers: Servers, stream: Stream) -> Iterator[Part]:
    """A book with the first half settled, the events of the other half, and a maker of settlers."""
    groups, settler = stream
    made = new_book(settings, None, name="part")
    half = len(groups) // 2
    with made.app() as connection:
        settler().settle(connection, flat(groups[:half]))
    yield made, groups[half:], settler
    drop_book(made)


@pytest.fixture
def empty(make_book: MakeBook) -> BookUnderTest:
    """A book that nothing was settled into."""
    return make_book(None)


def contents(book: BookUnderTest) -> str:
    return book.state_digest()


def counts(book: BookUnderTest) -> tuple[object, ...]:
    with book.admin() as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM exchange.trades), (SELECT count(*) FROM ledger.journals),"
            " (SELECT count(*) FROM ledger.ledger_entries), (SELECT count(*) FROM accounts.users),"
            " (SELECT count(*) FROM exchange.assets), (SELECT last_seq FROM ledger.settlement_cursor),"
            " (SELECT coalesce(sum(abs(balance)), 0) FROM ledger.accounts)"
        ).fetchone()
    assert row is not None
    return row


def test_batches_of_any_size_give_the_same_ledger_as_one(make_book: MakeBook, stream: Stream) -> None:
    groups, settler = stream
    whole, parts = make_book(None), make_book(None)
    with whole.app() as connection:
        done = settler().settle(connection, flat(groups))
    with parts.app() as connection:
        one = settler()
        for start in range(0, len(groups), 37):
            one.settle(connection, flat(groups[start : start + 37]))
    trades = [e for e in flat(groups) if isinstance(e, Trade)]
    transfers = [e for e in flat(groups) if isinstance(e, Transfer)]
    assert (done.trades, done.journals, done.already_there) == (len(trades), len(trades) + len(transfers), 0)
    assert contents(whole) == contents(parts)
    assert counts(whole)[:4] == (
        len(trades),
        len(trades) + len(transfers),
        counts(parts)[2],
        SMALL.users + SMALL.makers,
    )


def test_postings_are_numbered_in_the_engines_order_and_trades_name_their_journal(
    empty: BookUnderTest, stream: Stream
) -> None:
    groups, settler = stream
    with empty.app() as connection:
        settle_all(connection, settler(), groups)
    rows = "SELECT count(*) FROM (SELECT engine_seq, lag(engine_seq) OVER (ORDER BY posting_no) AS before FROM {}) x"
    for table in ("ledger.journals", "exchange.trades"):
        assert empty.value(f"{rows.format(table)} WHERE engine_seq < before") == 0
    assert empty.value(
        "SELECT count(*) FROM exchange.trades t FULL JOIN (SELECT * FROM ledger.journals WHERE kind = 'trade') j"
        " ON j.posting_no = t.posting_no AND j.reference_id = t.trade_id::text AND j.engine_seq = t.engine_seq"
        " AND j.close_date = t.close_date AND j.effective_at = t.effective_at"
        " WHERE t.trade_id IS NULL OR j.posting_no IS NULL"
    ) == 0  # fmt: skip


def test_settling_again_changes_nothing(empty: BookUnderTest, stream: Stream, journal: Path) -> None:
    groups, settler = stream
    with empty.app() as connection:
        first = settle(connection, journal)
        before, numbers = contents(empty), counts(empty)
        again = settle(connection, journal)
        past = settler().settle(connection, flat(groups[:200]))
    assert first.trades > 0
    assert (again.trades, again.journals, past.journals) == (0, 0, 0)
    assert past.last_seq == first.last_seq == len(groups)
    assert (contents(empty), counts(empty)) == (before, numbers)


def test_events_settled_before_are_found_by_id_and_reference_even_where_the_cursor_was_lost(
    empty: BookUnderTest, stream: Stream
) -> None:
    groups, settler = stream
    with empty.app() as connection:
        first = settler().settle(connection, flat(groups))
        before, numbers = contents(empty), counts(empty)
        rewind(empty)
        again = settler().settle(connection, flat(groups))
    assert (again.trades, again.journals, again.already_there) == (0, 0, first.journals)
    assert (contents(empty), counts(empty)) == (before, numbers)


def test_batch_of_old_and_new_events_posts_the_new_ones_only(make_book: MakeBook, stream: Stream) -> None:
    groups, settler = stream
    whole, mixed = make_book(None), make_book(None)
    with whole.app() as connection:
        settler().settle(connection, flat(groups))
    half = next(n for n in range(len(groups) // 2, len(groups)) if any(isinstance(e, Trade) for e in groups[n]))
    with mixed.app() as connection:
        first = settler().settle(connection, flat(groups[:half]))
        rewind(mixed)
        rest = settler().settle(connection, flat(groups))
    assert first.trades > 0
    assert rest.trades > 0
    assert rest.already_there == first.journals
    assert contents(mixed) == contents(whole)
    assert counts(mixed) == counts(whole)


@pytest.mark.parametrize("statement", range(1, 12))
def test_batch_that_stops_between_any_two_statements_leaves_nothing(
    settled_in_part: Part,
    monkeypatch: pytest.MonkeyPatch,
    statement: int,
) -> None:
    book, rest, settler = settled_in_part
    before, numbers = contents(book), counts(book)
    done = 0

    def broken(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal done
            done += 1
            if done == statement:
                raise ConnectionAbortedError
            return real(*args, **kwargs)

        return call

    with book.app() as connection, monkeypatch.context() as patch:
        patch.setattr(postings, "copy_rows", broken(postings.copy_rows))
        patch.setattr(postings, "copy_binary", broken(postings.copy_binary))
        patch.setattr(connection, "execute", broken(connection.execute))
        with pytest.raises(ConnectionAbortedError):
            settler().settle(connection, flat(rest))
    assert (contents(book), counts(book)) == (before, numbers)


def test_two_settlers_at_once_have_one_effect(make_book: MakeBook, stream: Stream) -> None:
    groups, settler = stream
    alone, raced = make_book(None), make_book(None)
    with alone.app() as connection:
        settle_all(connection, settler(), groups)
    start, failures = threading.Barrier(3), []

    def run() -> None:
        one = settler()
        with raced.app() as connection:
            start.wait()
            try:
                for n in range(0, len(groups), 25):
                    one.settle(connection, flat(groups[n : n + 25]))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert contents(raced) == contents(alone)
    assert counts(raced) == counts(alone)


def test_batch_that_arrays_cannot_hold_settles_alike_row_by_row(
    make_book: MakeBook, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, settler = stream
    fast, slow = make_book(None), make_book(None)
    with fast.app() as connection:
        settle_all(connection, settler(), groups)

    def beyond(*args: object) -> object:
        raise OverflowError

    with slow.app() as connection, monkeypatch.context() as patch:
        patch.setattr(settlement, "arrays_of", beyond)
        settle_all(connection, settler(), groups)
    assert counts(fast) == counts(slow)
    columns = (
        ("exchange.trades", settlement_rows.TRADE_COLUMNS),
        ("ledger.journals", settlement_rows.JOURNAL_COLUMNS),
        (
            "ledger.ledger_entries JOIN ledger.accounts a USING (account_id)",
            "posting_no, close_date, account, a.asset, amount",
        ),
    )
    for table, listed in columns:
        query = f"SELECT {listed} FROM {table} ORDER BY {listed}".encode()
        with fast.admin() as one, slow.admin() as other:
            assert one.execute(query).fetchall() == other.execute(query).fetchall()
    for book in (fast, slow):
        for day in book.days:
            differ = "SELECT count(*) FROM ledger.journal_hashes(%s) WHERE stored IS DISTINCT FROM computed OR legs < 2"
            assert book.value(differ, day) == 0


def test_binary_fields_are_read_by_postgres_as_what_they_say(empty: BookUnderTest) -> None:
    dice = random.Random(5)
    values = [
        (dice.choice((1, -1)) * dice.getrandbits(dice.randint(1, 127)), n % 19, dice.randint(0, 4 * 10**15))
        for n in range(3000)
    ]
    rows = [
        copy_binary.row(
            (copy_binary.int8(n), copy_binary.numeric(units, decimals), copy_binary.timestamptz(us),
             copy_binary.date4(us // 86_400_000_000), copy_binary.text(str(units)))
        )
        for n, (units, decimals, us) in enumerate(values)
    ]  # fmt: skip
    with empty.admin() as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "CREATE TABLE public.read_back (n bigint, amount numeric, at timestamptz, day date, said text)"
        )
        postings.copy_binary(connection, "public.read_back (n, amount, at, day, said)", rows)
        found = connection.execute(
            "SELECT amount, close.iso_us(at), day, said FROM public.read_back ORDER BY n"
        ).fetchall()
    with localcontext(prec=60):
        assert found == [
            (Decimal(units).scaleb(-decimals), iso_us(from_us(us)), from_us(us).date(), str(units))
            for units, decimals, us in values
        ]


@pytest.mark.parametrize(
    "change",
    [
        {"price_ticks": 1},
        {"quantity_lots": 1, "base_units": 1},
        {"quote_units": 1},
        {"maker_fee_units": 1},
        {"taker_fee_units": -1},
        {"effective_us": 1},
        {"maker_rate_ppm": 1},
        {"maker_order_id": 1},
        {"close_day": 1},
    ],
)
def test_trade_settled_with_another_payload_is_refused_naming_both(
    settled: BookUnderTest, stream: Stream, change: dict[str, int]
) -> None:
    groups, settler = stream
    trade = next(e for e in flat(groups) if isinstance(e, Trade))
    altered = trade._replace(**{name: getattr(trade, name) + by for name, by in change.items()})
    before, posting = (
        counts(settled),
        settled.value("SELECT posting_no FROM exchange.trades WHERE trade_id = %s", trade.trade_id),
    )
    with settled.app() as connection:
        for event, refused in ((altered, True), (trade, False)):
            connection.execute("UPDATE ledger.settlement_cursor SET last_seq = %s", (trade.engine_seq - 1,))
            if refused:
                with pytest.raises(
                    LedgerRefusedError, match=f"trade {trade.trade_id} .* differs from its posting {posting}"
                ):
                    settler().settle(connection, [event])
            else:
                assert settler().settle(connection, [event]).already_there == 1
    assert counts(settled)[:5] == before[:5]


def test_taker_side_and_parties_of_a_settled_trade_cannot_change(settled: BookUnderTest, stream: Stream) -> None:
    groups, settler = stream
    trade = next(e for e in flat(groups) if isinstance(e, Trade))
    swapped = trade._replace(maker_account=trade.taker_account, taker_account=trade.maker_account)
    turned = trade._replace(taker_side=Side(1 - trade.taker_side))
    for altered in (swapped, turned):
        rewind(settled, trade.engine_seq - 1)
        with settled.app() as connection, pytest.raises(LedgerRefusedError, match="same trade id, same payload"):
            settler().settle(connection, [altered])


def test_transfer_settled_with_another_amount_is_refused_naming_both(settled: BookUnderTest, stream: Stream) -> None:
    groups, settler = stream
    deposit = next(e for e in flat(groups) if isinstance(e, Transfer))
    rewind(settled, deposit.engine_seq - 1)
    with (
        settled.app() as connection,
        pytest.raises(LedgerRefusedError, match=rf"{deposit.reference} .*posting \d+ with hash"),
    ):
        settler().settle(connection, [replace(deposit, units=deposit.units + 1)])


def test_user_asset_or_market_known_by_other_properties_is_refused(empty: BookUnderTest, stream: Stream) -> None:
    groups, settler = stream
    usdt_and_btc = "INSERT INTO exchange.assets VALUES ('USDT', 1, 6), ('BTC', 2, 8)"
    market = "INSERT INTO exchange.markets VALUES ('BTC-USDT', %s, %s, %s, %s, %s)"
    before = counts(empty)
    for statements, match in (
        (["INSERT INTO exchange.assets VALUES ('BTC', 2, 6)"], "BTC is known"),
        (["INSERT INTO exchange.assets VALUES ('BTC', 99, 8)"], "BTC is known"),
        (["INSERT INTO accounts.users (user_id, account) VALUES (1, 'someone-else')"], "has another number or name"),
        (["INSERT INTO accounts.users (user_id, account) VALUES (77, 'u-0001')"], "has another number or name"),
        ([usdt_and_btc, market % (9, "'BTC'", "'USDT'", 10_000, 1)], "BTC-USDT is known"),
        ([usdt_and_btc, market % (1, "'BTC'", "'USDT'", 10_000, 2)], "BTC-USDT is known"),
        ([usdt_and_btc, market % (1, "'BTC'", "'USDT'", 1, 1)], "BTC-USDT is known"),
        ([usdt_and_btc, market % (1, "'USDT'", "'BTC'", 10_000, 1)], "BTC-USDT is known"),
    ):
        with empty.app() as connection, connection.transaction(force_rollback=True):
            for statement in statements:
                connection.execute(statement.encode())
            with pytest.raises(LedgerRefusedError, match=match):
                settler().settle(connection, flat(groups))
    assert counts(empty) == before


def test_events_out_of_the_engines_order_are_refused(empty: BookUnderTest, stream: Stream) -> None:
    groups, settler = stream
    with empty.app() as connection:
        settler().settle(connection, flat(groups[:100]))
        before = counts(empty)
        with pytest.raises(LedgerRefusedError, match="not in the engine's order"):
            settler().settle(connection, flat([*groups[150:200], *groups[100:150]]))
        assert counts(empty) == before
        settler().settle(connection, flat(groups[100:200]))


def test_refusal_of_one_event_undoes_the_whole_batch(empty: BookUnderTest, stream: Stream) -> None:
    groups, settler = stream
    events = flat(groups)
    position = max(n for n, e in enumerate(events) if isinstance(e, Trade))
    trade = events[position]
    assert isinstance(trade, Trade)
    poor = trade._replace(quote_units=10**24, base_units=10**24)
    with empty.app() as connection, pytest.raises(psycopg.errors.CheckViolation, match="not_negative"):
        settler().settle(connection, [*events[:position], poor, *events[position + 1 :]])
    assert counts(empty)[:3] == (0, 0, 0)
