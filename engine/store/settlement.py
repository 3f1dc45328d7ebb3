"""The one settlement consumer: engine events become users, trades, journals and legs, in sequence order, once.

What belongs here: one batch in one transaction, idempotent on trade id and reference.
What does not: batch after batch (see `settlement_pipeline`), reading the engine's journal (see
`engine.exchange.history`), and legs (see `engine.exchange.postings`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import chain
from operator import attrgetter

import numpy as np
import psycopg

from engine.clock import from_day_number, from_us, iso_us
from engine.errors import LedgerRefusedError
from engine.exchange.events import (
    AccountOpened,
    AssetListed,
    CutOff,
    Event,
    MarketListed,
    Side,
    Trade,
    Transfer,
    TransferKind,
)
from engine.exchange.postings import journal_of
from engine.exchange.state import Registry
from engine.ledger.journal import Journal
from engine.store import adjustments, postings
from engine.store import settlement_rows as rows_of
from engine.store.command_requests import Asked, asked_by
from engine.store.settlement_arrays import Array, arrays_of
from engine.store.settlement_batch import Batch, prepare, refuse_disorder
from engine.store.settlement_flight import Flight, Settled, enter, follow, registers
from engine.store.settlement_names import Names, Pair

_CLOSE_DAY = attrgetter("close_day")


@dataclass(slots=True)
class Settler:
    """Settles events of one exchange into one book.

    Args:
        registry: names and scales of assets, markets and accounts.
        actor: who posts, as journals record it.
    """

    registry: Registry
    actor: str = "settlement"
    known: postings.AccountIds = field(default_factory=dict)
    names: Names = field(init=False)
    _opened: set[date] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.names = Names(self.actor)

    def settle(self, connection: psycopg.Connection, events: Sequence[Event]) -> Settled:
        """Settle one batch in one transaction; what is there already is compared and left alone.

        Args:
            connection: as the application role, outside a transaction.
            events: in sequence order; all events of a sequence are in the same batch.

        Raises:
            LedgerRefusedError: a trade or reference is there with another payload, or the database refuses.
        """
        return self.settle_batch(connection, self.prepare(events))

    def prepare(self, events: Sequence[Event]) -> Batch:
        """Everything about a batch that needs no database; may run in another thread than `settle_batch`."""
        return prepare(events, self.registry, self.names, arrays_of)

    def settle_batch(self, connection: psycopg.Connection, batch: Batch) -> Settled:
        """`settle`, of a batch made ready before."""
        return self.send(connection, batch).land()

    def forget(self) -> None:
        """Forget what a transaction that was rolled back may have said of accounts and days."""
        self.known.clear()
        self.names.forget()
        self._opened.clear()

    def send(self, connection: psycopg.Connection, batch: Batch, before: Flight | None = None) -> Flight:
        """Send a batch's rows, in a transaction that `Flight.land` has checked and committed.

        Args:
            connection: outside a transaction.
            batch: made ready by `prepare`.
            before: the batch before it, landing on another connection. What this one has to see of it is waited for:
                names, days and accounts that it makes. Nothing else of it shows before this one lands.

        Raises:
            LedgerRefusedError, psycopg.Error: nothing of the batch was written.
            OvertakenError: another consumer came between the two batches.
        """
        with ExitStack() as transaction:
            transaction.enter_context(connection.transaction())
            since = enter(connection) if before is None else follow(connection, before)
            if np.any(batch.sequences <= since):
                batch = self.prepare([event for event in batch.events if event.engine_seq > since])
            slot = 0 if before is None else 1 - before.slot
            flight = Flight(connection, batch.plain, self.registry, since, slot, before)
            flight.done.last_seq = since
            if batch.events:
                refuse_disorder(batch)
                flight.takes_off(batch.events[-1].engine_seq)
                flight.opens = self._register(connection, batch, before)
                self._post(flight, batch, before)
            flight.transaction = transaction.pop_all()
            return flight

    def _post(self, flight: Flight, batch: Batch, before: Flight | None) -> None:
        connection = flight.connection
        there = postings.existing(connection, [j for _, e, j in batch.others if not isinstance(e, Trade)])
        new_trades, old_trades = self._split(connection, batch.trades)
        if there or old_trades:
            batch = self.prepare([event for event in batch.events if self._is_new(event, there, old_trades)])
        if batch.journals:
            # Legs of a batch are some 70 MB, which triggers read several times: in memory, not in a temporary file.
            connection.execute("SET LOCAL work_mem = '256MB'")
            start = postings.reserve_in_turn(connection, batch.journals)
            asked = asked_by(connection, batch.plain)
            signed = adjustments.signed(connection, [_worded(event, j, asked) for _, event, j in batch.others])
            others = [(start + n, journal) for (n, _, _), journal in zip(batch.others, signed, strict=True)]
            self._copy(flight, batch, batch.places + start, others, before)
        flight.done.trades, flight.done.journals = len(new_trades), batch.journals
        flight.done.already_there = len(old_trades) + len(there)

    def _is_new(self, event: Event, there: set[tuple[str, str]], old_trades: set[int]) -> bool:
        if isinstance(event, Trade):
            return event.trade_id not in old_trades
        journal = journal_of(event, self.registry)
        return journal is None or (journal.reference_type, journal.reference_id) not in there

    def _copy(
        self, flight: Flight, batch: Batch, numbers: Array, others: list[tuple[int, Journal]], before: Flight | None
    ) -> None:
        """Write trades, then all journals, then all legs: one statement each, as a balance is checked at its end."""
        arrays, connection = batch.arrays, flight.connection
        if arrays is not None:
            arrays.number(numbers)
            rows: Iterable[bytes | memoryview] = (arrays.trade_rows(),)
        else:
            rows = (rows_of.trade_row(t, n, self.registry) for t, n in zip(batch.trades, numbers.tolist(), strict=True))
        if batch.trades:
            postings.copy_binary(connection, f"exchange.trades ({rows_of.TRADE_COLUMNS})", rows)
        wanted = {(leg.account, leg.asset) for _, journal in others for leg in journal.legs}
        new = sorted(wanted - self.known.keys())
        self.known.update(zip(new, self._account_ids(connection, new, before), strict=True))
        journal_rows = (rows_of.journal_row(journal, n, journal.actor or self.actor) for n, journal in others)
        postings.copy_binary(
            connection,
            f"ledger.journals ({rows_of.JOURNAL_COLUMNS})",
            chain((arrays.journal_rows(),) if arrays else (), journal_rows),
        )
        leg_rows = (rows_of.leg_rows(journal, n, self.known, batch.decimals) for n, journal in others)
        made: Iterable[bytes | memoryview] = ()
        if arrays is not None:
            ids = arrays.ids(self.names, lambda pairs: self._account_ids(connection, pairs, before))
            made = (arrays.leg_rows(ids),)
        dates = {journal.close_date for _, journal in others}
        if arrays is not None:
            dates.update(map(from_day_number, arrays.days()))
        target = f"{postings.legs_of(dates)} ({rows_of.LEG_COLUMNS})"
        flight.legs.enter_context(postings.copied(connection, target, chain(made, leg_rows)))

    def _account_ids(self, connection: psycopg.Connection, pairs: list[Pair], before: Flight | None) -> list[int]:
        """The ids of accounts; what is missing is made once the batch before has landed, which may have made it."""
        ids = postings.find_accounts(connection, pairs)
        if missing := {pair for pair, number in zip(pairs, ids, strict=True) if not number}:
            if before is not None:
                before.wait()
            made: postings.AccountIds = {}
            postings.ensure_accounts(connection, missing, made)
            ids = [number or made[pair] for pair, number in zip(pairs, ids, strict=True)]
        return ids

    def _split(self, connection: psycopg.Connection, trades: list[Trade]) -> tuple[list[Trade], set[int]]:
        """New trades, and the ids of those that the registry of trades has with the same payload."""
        if not trades:
            return [], set()
        columns = ", ".join(f"{name.strip()}::text" for name in rows_of.TRADE_COLUMNS.split(",") if "_at" not in name)
        times = "close.iso_us(sequenced_at), close.iso_us(effective_at)"
        rows = connection.execute(
            f"SELECT {columns}, {times} FROM exchange.trades WHERE trade_id BETWEEN %s AND %s".encode(),
            (trades[0].trade_id, trades[-1].trade_id),
        ).fetchall()
        if not rows:
            return trades, set()
        there = {int(row[0]): row for row in rows}
        fresh = []
        for trade in trades:
            row = there.get(trade.trade_id)
            if row is None:
                fresh.append(trade)
            elif not _same_trade(self._trade_row(trade, int(row[1])), row):
                raise LedgerRefusedError(
                    f"trade {trade.trade_id} of sequence {trade.engine_seq} differs from its posting {row[1]}",
                    rule="same trade id, same payload",
                    next_step="the engine's journal is not the one this book was settled from; stop and compare",
                )
        return fresh, set(there)

    def _trade_row(self, trade: Trade, posting_no: int) -> tuple[object, ...]:
        market = self.registry.markets[trade.market]
        base, quote = self.registry.assets[market.base], self.registry.assets[market.quote]
        price = trade.price_ticks * rows_of.tick_of(market, self.registry)
        return (
            trade.trade_id,
            posting_no,
            trade.engine_seq,
            trade.fill_index,
            from_day_number(trade.close_day),
            iso_us(from_us(trade.sequenced_us)),
            iso_us(from_us(trade.effective_us)),
            market.symbol,
            postings.amount_text(price, 18),
            postings.amount_text(trade.base_units, base.decimals),
            postings.amount_text(trade.quote_units, quote.decimals),
            "buy" if trade.taker_side == Side.BUY else "sell",
            trade.maker_account,
            trade.taker_account,
            trade.maker_order_id,
            trade.taker_order_id,
            postings.amount_text(trade.maker_fee_units, quote.decimals),
            postings.amount_text(trade.taker_fee_units, quote.decimals),
            trade.maker_rate_ppm,
            trade.taker_rate_ppm,
        )

    def _register(self, connection: psycopg.Connection, batch: Batch, before: Flight | None) -> bool:
        """Names and days that a batch brings, after those of the batch before; whether there was a day to open."""
        days = self._days(batch) - self._opened
        if before is not None and (before.opens or days or registers(batch.plain)):
            before.wait()
        self._name(connection, batch.plain)
        for day in sorted(days):
            connection.execute("SELECT close.open_day(%s)", (day,))
            self._opened.add(day)
        return bool(days)

    def _name(self, connection: psycopg.Connection, events: Sequence[Event]) -> None:
        assets = [e for e in events if isinstance(e, AssetListed)]
        markets = [e for e in events if isinstance(e, MarketListed)]
        accounts = [e for e in events if isinstance(e, AccountOpened)]
        with connection.cursor() as cursor:
            if assets:
                cursor.executemany(
                    "INSERT INTO exchange.assets (asset, engine_id, decimals) VALUES (%s, %s, %s)"
                    " ON CONFLICT DO NOTHING",
                    [(a.symbol, a.asset, a.decimals) for a in assets],
                )
            for m in markets:
                base, quote = self.registry.assets[m.base], self.registry.assets[m.quote]
                rows_of.tick_size(
                    m.quote_units_per_tick_lot, quote.decimals, m.base_units_per_lot, base.decimals, m.symbol
                )
                cursor.execute(
                    "INSERT INTO exchange.markets VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (m.symbol, m.market, base.symbol, quote.symbol, m.base_units_per_lot, m.quote_units_per_tick_lot),
                )
            if accounts:
                cursor.execute(
                    "INSERT INTO accounts.users (user_id, account, state)"
                    " SELECT n.number, n.name, (SELECT accounts.opening_state())"
                    " FROM unnest(%s::bigint[], %s::text[]) AS n (number, name)"
                    " ON CONFLICT DO NOTHING",
                    ([a.account for a in accounts], [a.name for a in accounts]),
                )
        self._compare_registered(connection, assets, markets, accounts)

    def _compare_registered(
        self,
        connection: psycopg.Connection,
        assets: list[AssetListed],
        markets: list[MarketListed],
        accounts: list[AccountOpened],
    ) -> None:
        """What is there under a number or name must be what the engine says."""
        wanted: list[tuple[str, list[tuple[object, ...]]]] = [
            (
                "SELECT asset, engine_id, decimals FROM exchange.assets",
                [(a.symbol, a.asset, a.decimals) for a in assets],
            ),
            (
                "SELECT market, engine_id, base, quote, base_units_per_lot, quote_units_per_tick_lot"
                " FROM exchange.markets",
                [
                    (
                        m.symbol,
                        m.market,
                        self.registry.assets[m.base].symbol,
                        self.registry.assets[m.quote].symbol,
                        m.base_units_per_lot,
                        m.quote_units_per_tick_lot,
                    )
                    for m in markets
                ],
            ),
        ]
        for query, listed in wanted:
            there = set(connection.execute(query.encode()).fetchall()) if listed else set()
            for item in listed:
                if item not in there:
                    raise LedgerRefusedError(f"{item[0]} is known to this book with other properties than {item}")
        if accounts:
            rows = connection.execute(
                "SELECT user_id, account FROM accounts.users WHERE user_id = ANY(%s)", ([a.account for a in accounts],)
            ).fetchall()
            for item in {(a.account, a.name) for a in accounts} - set(rows):
                raise LedgerRefusedError(f"user {item[0]} ({item[1]}) has another number or name in this book")

    def _days(self, batch: Batch) -> set[date]:
        """Every close date that the events belong to, and the one after each cut-off."""
        numbers = {day for e in batch.plain if (day := getattr(e, "close_day", None)) is not None}
        numbers |= set(map(_CLOSE_DAY, batch.trades))
        after = {from_day_number(e.close_day) + timedelta(days=1) for e in batch.plain if isinstance(e, CutOff)}
        return {from_day_number(number) for number in numbers} | after


def _worded(event: Event, journal: Journal, asked: dict[tuple[TransferKind, str], Asked]) -> Journal:
    """A journal with the words of who asked for it."""
    by = asked.get((event.kind, event.reference)) if isinstance(event, Transfer) else None
    return journal if by is None else replace(journal, actor=by.actor or None, reason=by.reason or journal.reason)


def _same_trade(new: tuple[object, ...], row: Sequence[object]) -> bool:
    """Whether a trade equals the stored one, number by number."""
    times = (new[5], new[6])
    plain = [*new[:5], *new[7:]]
    stored, stored_times = row[:-2], tuple(row[-2:])
    return times == stored_times and all(_same(a, b) for a, b in zip(plain, stored, strict=True))


def _same(new: object, stored: object) -> bool:
    text, there = str(new), str(stored)
    if "." in there:
        there = there.rstrip("0").rstrip(".")
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text == there
