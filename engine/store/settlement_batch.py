"""A batch of events made ready for settlement, before and without the database.

What belongs here: what of a batch costs Python time and no connection, so that it can be done while Postgres takes the
batch before. What does not: the transaction (see `settlement`), and the rows themselves (see `settlement_arrays`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import TypeVar, cast

import numpy as np

from engine.errors import LedgerRefusedError
from engine.exchange.events import Event, Trade
from engine.exchange.postings import journal_of
from engine.exchange.state import Registry
from engine.ledger.journal import Journal, check_balanced
from engine.store.settlement_arrays import Array, TradeArrays, arrays_of
from engine.store.settlement_names import Names

BATCH = 100_000
T = TypeVar("T")
_SEQ = attrgetter("engine_seq")


@dataclass(slots=True)
class Batch:
    """Events, sorted out.

    Attributes:
        events: all of them, in order.
        sequences: of each (int64).
        trades: the trades among them, and at which place of the batch's journals each stands (`places`, int64).
        others: what else moves something: the place of its journal, the event, the journal.
        plain: what is not a trade.
        journals: how many journals there are.
        decimals: of each asset that is known.
        arrays: the trades as arrays, or None where those cannot hold them (or there are none).
    """

    events: Sequence[Event]
    sequences: Array
    trades: list[Trade]
    places: Array
    others: list[tuple[int, Event, Journal]]
    plain: list[Event]
    journals: int
    decimals: dict[str, int]
    arrays: TradeArrays | None

    @property
    def ordered(self) -> bool:
        """Whether the events are in the engine's order."""
        return not np.any(np.diff(self.sequences) < 0)


def prepare(
    events: Sequence[Event],
    registry: Registry,
    names: Names,
    make_arrays: Callable[[Sequence[Trade], Registry, Names], TradeArrays] = arrays_of,
) -> Batch:
    """Sort out a batch and make its trades' columns, legs and hashes.

    Args:
        events: in sequence order; all events of a sequence are in the same batch.
        registry: names and scales of assets, markets and accounts.
        names: of the batches before.
        make_arrays: from trades to arrays.

    Raises:
        LedgerRefusedError: a journal moves nothing or does not balance.
        ValueError: a name that is not printable ASCII.
    """
    sequences = np.fromiter(map(_SEQ, events), np.int64, len(events))
    others: list[tuple[int, Event, Journal]] = []
    plain: list[Event] = []
    if set(map(type, events)) <= {Trade}:
        trades, at = list(cast(Sequence[Trade], events)), len(events)
        places: Array = np.arange(at)
    else:
        trades, at, found = [], 0, list[int]()
        for event in events:
            if isinstance(event, Trade):
                trades.append(event)
                found.append(at)
            else:
                plain.append(event)
                journal = journal_of(event, registry)
                if journal is None:
                    continue
                check_balanced(journal)
                others.append((at, event, journal))
            at += 1
        places = np.array(found, np.int64)
    decimals = {asset.symbol: asset.decimals for asset in list(registry.assets.values())}
    arrays = None
    if trades:
        try:
            arrays = make_arrays(trades, registry, names)
        except OverflowError:
            one_by_one = (
                (n, trade, trade_journal(trade, registry)) for n, trade in zip(places.tolist(), trades, strict=True)
            )
            others = sorted([*others, *one_by_one], key=itemgetter(0))
        else:
            arrays.hash_journals()
    return Batch(events, sequences, trades, places, others, plain, at, decimals, arrays)


def trade_journal(trade: Trade, registry: Registry) -> Journal:
    """The journal of a trade, checked."""
    journal = journal_of(trade, registry)
    assert journal is not None
    check_balanced(journal)
    return journal


def in_batches(groups: Iterable[Sequence[Event]], size: int) -> Iterator[list[Event]]:
    """Groups of one command each, joined until there are `size` events, in the first batch a quarter of them.

    While the first is made ready and sent nothing else can be done, so it is a short one.
    """
    pending: list[Event] = []
    wanted = -(-size // 4)
    for group in groups:
        pending.extend(group)
        if len(pending) >= wanted:
            yield pending
            pending, wanted = [], size
    if pending:
        yield pending


@contextmanager
def ahead(made: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same items, each made in a thread while the one before it is worked on.

    What an iterator raises comes where its item would have. At most one item is waiting, and at the end of the `with`
    the thread has stopped.
    """
    end = object()

    with ThreadPoolExecutor(1, "settlement-prepares") as thread:

        def items() -> Iterator[T]:
            upcoming = thread.submit(next, made, end)
            while (item := upcoming.result()) is not end:
                upcoming = thread.submit(next, made, end)
                yield item  # type: ignore[misc]

        yield items()


def refuse_disorder(batch: Batch) -> None:
    """Refuse a batch that is not in the engine's order.

    Raises:
        LedgerRefusedError: always, if it is not.
    """
    if not batch.ordered:
        first, last = batch.events[0].engine_seq, batch.events[-1].engine_seq
        raise LedgerRefusedError(
            f"events of sequences {first} to {last} are not in the engine's order",
            rule="events settle in sequence order: one that comes later would be taken for settled",
            next_step="read them from the engine's journal",
        )
