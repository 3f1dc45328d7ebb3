"""The whole state as deterministic bytes, in a file, and its hash.

What belongs here: packing and reading a snapshot, its atomic file, `engine_state_hash`.
What does not: when a snapshot is taken and which one recovery uses (see `snapshots`).

Format 1, little-endian: magic, version; counters; assets; markets; accounts; tiers; balances; fees and external flows;
transfer references; withdrawals in transit; order references of two days; resting orders by market, bids before asks,
best price first, oldest first; then SHA-256 over all of it. Every list is length-prefixed and sorted, so two engines
in the same state give the same bytes, however they came to it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.exchange.book import Book, Order
from engine.exchange.commands import Withdrawal
from engine.exchange.engine import ExchangeEngine
from engine.exchange.errors import JournalWriteError, SnapshotCorruptError
from engine.exchange.journal_writer import write_atomically
from engine.exchange.state import Account, Asset, EngineState, Market

MAGIC = b"CMPLSNAP"
VERSION = 1
_DIGEST_BYTES = 32
_LOW = 2**64 - 1

_HEAD = struct.Struct("<8sI")
_COUNTERS = struct.Struct("<qqQIqQ?qq")
_COUNT = struct.Struct("<Q")
_ASSET = struct.Struct("<HI64s")
_MARKET = struct.Struct("<HHHQQQ64s")
_ACCOUNT = struct.Struct("<Q64s")
_BALANCE = struct.Struct("<QH8Q")
_FLOW = struct.Struct("<H4Q")
_TRANSFER = struct.Struct("<BQ64s")
_WITHDRAWAL = struct.Struct("<64sQHQQ?q")
_REFERENCE = struct.Struct("<QQ64s")
_ORDER = struct.Struct("<HBQQqqq")


def _two(value: int) -> tuple[int, int]:
    return value & _LOW, value >> 64


def _list(layout: struct.Struct, rows: Iterable[tuple[Any, ...]]) -> bytes:
    packed = [layout.pack(*row) for row in rows]
    return _COUNT.pack(len(packed)) + b"".join(packed)


def _balances(engine: ExchangeEngine) -> bytes:
    return _list(
        _BALANCE,
        (
            (b.account, b.asset, *_two(b.available), *_two(b.locked), *_two(b.staked), *_two(b.in_transit))
            for b in engine.balances()
        ),
    )


def _orders(engine: ExchangeEngine) -> bytes:
    return _list(
        _ORDER, ((m, o.side, o.order_id, o.account, o.price, o.quantity, o.rate_ppm) for m, o in engine.resting())
    )


def engine_state_hash(engine: ExchangeEngine) -> str:
    """Hex SHA-256 over the packed balances (with their locks) and resting orders, as DESIGN 4 names it."""
    return hashlib.sha256(_balances(engine) + _orders(engine)).hexdigest()


def pack(engine: ExchangeEngine) -> bytes:
    """The whole state as bytes, without the trailer's digest."""
    state = engine.state
    registry = state.registry
    parts = [
        _HEAD.pack(MAGIC, VERSION),
        _COUNTERS.pack(
            state.first_day,
            state.open_day,
            state.last_seq,
            state.last_crc,
            state.last_ts_us,
            state.next_trade_id,
            state.tiers_set,
            state.maker_rate_ppm,
            state.taker_rate_ppm,
        ),
        _list(_ASSET, ((a.asset, a.decimals, a.symbol.encode()) for _, a in sorted(registry.assets.items()))),
        _list(
            _MARKET,
            (
                (m.market, m.base, m.quote, *_two(m.base_units_per_lot), m.quote_units_per_tick_lot, m.symbol.encode())
                for _, m in sorted(registry.markets.items())
            ),
        ),
        _list(_ACCOUNT, ((a.account, a.name.encode()) for _, a in sorted(registry.accounts.items()))),
        _balances(engine),
        _list(_FLOW, ((a, *_two(state.fees[a]), *_two(state.external[a])) for a in sorted(state.fees))),
        _list(_TRANSFER, ((kind, seq, ref.encode()) for (kind, ref), seq in sorted(state.transfers.items()))),
        _list(_WITHDRAWAL, (_withdrawal(w) for _, w in sorted(state.withdrawals.items()))),
    ]
    for references in state.order_references:
        parts.append(_list(_REFERENCE, ((a, s, ref.encode()) for (a, ref), s in sorted(references.items()))))
    parts.append(_orders(engine))
    return b"".join(parts)


def _withdrawal(w: Withdrawal) -> tuple[Any, ...]:
    given = w.effective_us is not None
    return (w.reference.encode(), w.account, w.asset, *_two(w.units), given, w.effective_us or 0)


def save(engine: ExchangeEngine, path: Path) -> None:
    """Write a snapshot whole, or not at all.

    Raises:
        JournalWriteError: the disk refused.
    """
    data = pack(engine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data + hashlib.sha256(data).digest())
    except OSError as error:
        raise JournalWriteError(path, error) from None


def load(path: Path) -> ExchangeEngine:
    """The engine of a snapshot file.

    Raises:
        SnapshotCorruptError: it is unreadable, short, changed, or of another version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SnapshotCorruptError(path, error.strerror or str(error)) from None
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(data) < _HEAD.size + _DIGEST_BYTES or hashlib.sha256(body).digest() != digest:
        raise SnapshotCorruptError(path, "its SHA-256 fails")
    magic, version = _HEAD.unpack_from(body)
    if magic != MAGIC or version != VERSION:
        raise SnapshotCorruptError(path, f"format {magic!r} version {version}")
    return _unpack(body)


class _Cursor:
    """A place in packed bytes."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.data = data
        self.offset = offset

    def one(self, layout: struct.Struct) -> tuple[Any, ...]:
        found = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return found

    def rows(self, layout: struct.Struct) -> list[tuple[Any, ...]]:
        count = self.one(_COUNT)[0]
        end = self.offset + count * layout.size
        found = list(layout.iter_unpack(self.data[self.offset : end]))
        self.offset = end
        return found


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("ascii")


def _unpack(body: bytes) -> ExchangeEngine:
    cursor = _Cursor(body, _HEAD.size)
    first, opened, seq, crc, ts_us, next_trade, tiers_set, maker, taker = cursor.one(_COUNTERS)
    state = EngineState(
        first_day=first,
        open_day=opened,
        last_seq=seq,
        last_crc=crc,
        last_ts_us=ts_us,
        next_trade_id=next_trade,
        tiers_set=tiers_set,
        maker_rate_ppm=maker,
        taker_rate_ppm=taker,
    )
    registry = state.registry
    for asset, decimals, symbol in cursor.rows(_ASSET):
        registry.add_asset(Asset(asset, _text(symbol), decimals))
    for market, base, quote, low, high, tick_lot, symbol in cursor.rows(_MARKET):
        registry.add_market(Market(market, _text(symbol), base, quote, low | high << 64, tick_lot))
        state.books[market] = Book()
    for account, name in cursor.rows(_ACCOUNT):
        registry.add_account(Account(account, _text(name)))
    for account, asset, *words in cursor.rows(_BALANCE):
        state.balances[account, asset] = [words[i] | words[i + 1] << 64 for i in (0, 2, 4, 6)]
    for asset, low, high, low2, high2 in cursor.rows(_FLOW):
        state.fees[asset] = low | high << 64
        state.external[asset] = low2 | high2 << 64
    for kind, one, ref in cursor.rows(_TRANSFER):
        state.transfers[kind, _text(ref)] = one
    for ref, account, asset, low, high, given, effective in cursor.rows(_WITHDRAWAL):
        name = _text(ref)
        state.withdrawals[name] = Withdrawal(account, asset, low | high << 64, name, effective if given else None)
    for references in state.order_references:
        references.update({(account, _text(ref)): one for account, one, ref in cursor.rows(_REFERENCE)})
    for market, side, order_id, account, price, quantity, rate in cursor.rows(_ORDER):
        state.books[market].rest(Order(order_id, account, side, price, quantity, rate))
        state.order_market[order_id] = market
    return ExchangeEngine(first, state=state)
