"""The whole state as deterministic bytes, in a file, and its hash.

What belongs here: packing and reading a snapshot, its atomic file, `engine_state_hash`.
What does not: when a snapshot is taken and which one recovery uses (see `snapshots`).

Format 4, little-endian: magic, version; counters; assets; markets with limits; accounts with rights; tiers; balances;
fees, external flows and adjustments; debts; idempotency keys; withdrawals in transit; order references of the open day,
of the one before, and of older orders that rest; last and venue prices; resting orders by market, bids before asks,
best price first, oldest first; the staged batch of tiers; then SHA-256 over all of it. Format 3, without staged
tiers, and format 2, without debts and older references either, are read too.
Every list is length-prefixed and sorted, so two engines in the same state give the same bytes, however they came to it.
Amounts are two words, low one first; those that may be negative are two's complement.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.exchange.book import Book, Order
from engine.exchange.commands import AccountState, Hold, MarketLimits, StageAccountTiers, StageTier, Withdrawal
from engine.exchange.engine import ExchangeEngine
from engine.exchange.errors import JournalWriteError, SnapshotCorruptError
from engine.exchange.events import TransferKind
from engine.exchange.staged import StagedTiers
from engine.exchange.state import Account, Asset, EngineState, Market, UsedKey, UsedOrderKey, VenuePrice
from engine.exchange.tier_records import MOST_ACCOUNTS
from engine.exchange.whole_file import write_atomically

MAGIC = b"CMPLSNAP"
VERSION = 4
_WITHOUT_DEBTS = 2
_WITHOUT_STAGED = 3
_DIGEST_BYTES = 32
_LOW = 2**64 - 1

_HEAD = struct.Struct("<8sI")
_COUNTERS = struct.Struct("<qqQIqQ")
_COUNT = struct.Struct("<Q")
_ASSET = struct.Struct("<HI64s")
_MARKET = struct.Struct("<HHHQQQ64s" + "QQQQQQqQ")
_ACCOUNT = struct.Struct("<Q64sB??IH")
_TIER = struct.Struct("<Hqq")
_BATCH = struct.Struct("<Q")
_STAGED = struct.Struct(f"<HqqB{MOST_ACCOUNTS}Q")
_BALANCE = struct.Struct("<QH8Q")
_FLOW = struct.Struct("<H6Q")
_OWED = struct.Struct("<QH2Q")
_TRANSFER = struct.Struct("<BQQHQQ64s")
_WITHDRAWAL = struct.Struct("<64sQHQQ?q")
_REFERENCE = struct.Struct("<QQHBBqqq64s")
_LAST = struct.Struct("<Hq")
_VENUE = struct.Struct("<Hqqq")
_ORDER = struct.Struct("<HBQQqqqq")
_POST_ONLY = 2


def _two(value: int) -> tuple[int, int]:
    return value & _LOW, value >> 64 & _LOW


def _one(low: int, high: int) -> int:
    """A signed number of two words."""
    value = low | high << 64
    return value - (1 << 128) if high >> 63 else value


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


def _owed(engine: ExchangeEngine) -> bytes:
    return _list(_OWED, ((*key, *_two(units)) for key, units in sorted(engine.state.owed.items())))


def _orders(engine: ExchangeEngine) -> bytes:
    return _list(
        _ORDER,
        (
            (
                m,
                o.side | (_POST_ONLY if o.post_only else 0),
                o.order_id,
                o.account,
                o.price,
                o.quantity,
                o.rate_ppm,
                o.reserve,
            )
            for m, o in engine.resting()
        ),
    )


def engine_state_hash(engine: ExchangeEngine) -> str:
    """Hex SHA-256 over the packed balances (with their locks), resting orders and, where there are any, debts."""
    debts = _owed(engine) if engine.state.owed else b""
    return hashlib.sha256(_balances(engine) + _orders(engine) + debts).hexdigest()


def pack(engine: ExchangeEngine) -> bytes:
    """The whole state as bytes, without the trailer's digest."""
    state = engine.state
    registry = state.registry
    counters = (
        state.first_day,
        state.open_day,
        state.last_seq,
        state.last_crc,
        state.last_ts_us,
        state.next_trade_id,
    )
    parts = [
        _HEAD.pack(MAGIC, VERSION),
        _COUNTERS.pack(*counters),
        _list(_ASSET, ((a.asset, a.decimals, a.symbol.encode()) for _, a in sorted(registry.assets.items()))),
        _list(_MARKET, (_market(m) for _, m in sorted(registry.markets.items()))),
        _list(
            _ACCOUNT, (_account(a, state.account_tiers.get(a.account, 0)) for _, a in sorted(registry.accounts.items()))
        ),
        _list(_TIER, ((tier, *rates) for tier, rates in sorted(state.tiers.items()))),
        _balances(engine),
        _list(
            _FLOW,
            (
                (a, *_two(state.fees[a]), *_two(state.external[a]), *_two(state.adjustments[a]))
                for a in sorted(state.fees)
            ),
        ),
        _owed(engine),
        _list(
            _TRANSFER,
            (
                (kind, key.seq, key.account, key.asset, *_two(key.value), ref.encode())
                for (kind, ref), key in sorted(state.transfers.items(), key=lambda item: item[0])
            ),
        ),
        _list(_WITHDRAWAL, (_withdrawal(w) for _, w in sorted(state.withdrawals.items()))),
    ]
    *days, older = state.order_references
    for references in (*days, {key: one for key, one in older.items() if one.seq in state.order_market}):
        parts.append(
            _list(
                _REFERENCE,
                (
                    (
                        account,
                        k.seq,
                        k.market,
                        k.side,
                        k.tif,
                        k.price_ticks,
                        k.quantity_lots,
                        k.reserve_price_ticks,
                        ref.encode(),
                    )
                    for (account, ref), k in sorted(references.items(), key=lambda item: item[0])
                ),
            )
        )
    parts.append(_list(_LAST, sorted(state.last_prices.items())))
    parts.append(
        _list(
            _VENUE,
            ((m, v.price_ticks, v.sequenced_us, v.effective_us) for m, v in sorted(state.references.items())),
        )
    )
    parts.append(_orders(engine))
    parts.append(_staged(state.staged))
    return b"".join(parts)


def _market(m: Market) -> tuple[Any, ...]:
    x = m.limits
    return (
        *(m.market, m.base, m.quote, *_two(m.base_units_per_lot), m.quote_units_per_tick_lot, m.symbol.encode()),
        *(x.min_quantity_lots, x.max_quantity_lots, *_two(x.min_notional_units), x.band_ppm, x.slippage_ppm),
        *(x.reference_max_age_us, x.revision),
    )


def _account(a: Account, tier: int) -> tuple[Any, ...]:
    return (a.account, a.name.encode(), a.state, a.may_trade, a.may_withdraw, int(a.holds), tier)


def _staged(staged: StagedTiers | None) -> bytes:
    if staged is None:
        return _list(_BATCH, ()) + _list(_STAGED, ())
    none = (0,) * MOST_ACCOUNTS
    rows = (
        (row.tier, row.maker_rate_ppm, row.taker_rate_ppm, 0, *none)
        if isinstance(row, StageTier)
        else (row.tier, 0, 0, len(row.accounts), *row.accounts, *none[len(row.accounts) :])
        for row in staged.rows
    )
    return _list(_BATCH, [(staged.batch,)]) + _list(_STAGED, rows)


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
    if magic != MAGIC or version not in range(_WITHOUT_DEBTS, VERSION + 1):
        raise SnapshotCorruptError(path, f"format {magic!r} version {version}")
    return _unpack(body, version)


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


def _unpack(body: bytes, version: int = VERSION) -> ExchangeEngine:
    cursor = _Cursor(body, _HEAD.size)
    first, opened, seq, crc, ts_us, next_trade = cursor.one(_COUNTERS)
    state = EngineState(first, opened, last_seq=seq, last_crc=crc, last_ts_us=ts_us, next_trade_id=next_trade)
    _unpack_registry(cursor, state)
    for tier, maker, taker in cursor.rows(_TIER):
        state.tiers[tier] = (maker, taker)
    for account, asset, *words in cursor.rows(_BALANCE):
        state.balances[account, asset] = [words[i] | words[i + 1] << 64 for i in (0, 2, 4, 6)]
    for asset, *words in cursor.rows(_FLOW):
        flows = (state.fees, state.external, state.adjustments)
        for flow, low, high in zip(flows, words[::2], words[1::2], strict=True):
            flow[asset] = _one(low, high)
    for account, asset, low, high in cursor.rows(_OWED) if version > _WITHOUT_DEBTS else ():
        state.owed[account, asset] = low | high << 64
    _unpack_transfers(cursor, state)
    for ref, account, asset, low, high, given, effective in cursor.rows(_WITHDRAWAL):
        name = _text(ref)
        state.withdrawals[name] = Withdrawal(account, asset, low | high << 64, name, effective if given else None)
    for references in state.order_references if version > _WITHOUT_DEBTS else state.order_references[:2]:
        for account, one, market, side, tif, price, quantity, reserve, ref in cursor.rows(_REFERENCE):
            references[account, _text(ref)] = UsedOrderKey(one, market, side, tif, price, quantity, reserve)
    state.last_prices.update(cursor.rows(_LAST))
    for market, price, sequenced, effective in cursor.rows(_VENUE):
        state.references[market] = VenuePrice(price, sequenced, effective)
    for market, flags, order_id, account, price, quantity, rate, reserve in cursor.rows(_ORDER):
        side, post_only = flags & 1, bool(flags & _POST_ONLY)
        state.books[market].rest(Order(order_id, account, side, price, quantity, rate, post_only, reserve))
        state.order_market[order_id] = market
        state.account_orders.setdefault(account, set()).add(order_id)
    _unpack_staged(cursor, state, version)
    return ExchangeEngine(first, state=state)


def _unpack_transfers(cursor: _Cursor, state: EngineState) -> None:
    for kind, one, account, asset, low, high, ref in cursor.rows(_TRANSFER):
        # Only a correction has a sign; what other kinds keep here are bits.
        value = _one(low, high) if kind == TransferKind.ADJUST else low | high << 64
        state.transfers[kind, _text(ref)] = UsedKey(one, account, asset, value)
    for (kind, name), key in state.transfers.items():
        if kind == TransferKind.DEPOSIT_UNALLOCATED and (TransferKind.DEPOSIT_REVERSED, name) not in state.transfers:
            state.unallocated[key.asset] = state.unallocated.get(key.asset, 0) + key.value


def _unpack_staged(cursor: _Cursor, state: EngineState, version: int) -> None:
    if version <= _WITHOUT_STAGED:
        return
    batches, rows = cursor.rows(_BATCH), cursor.rows(_STAGED)
    for (batch,) in batches:
        state.staged = staged = StagedTiers(batch)
        for at, (tier, maker, taker, count, *accounts) in enumerate(rows):
            if count:
                staged.add(StageAccountTiers(staged.batch, at, tier, tuple(accounts[:count])))
            else:
                staged.add(StageTier(staged.batch, at, tier, maker, taker))


def _unpack_registry(cursor: _Cursor, state: EngineState) -> None:
    registry = state.registry
    for asset, decimals, symbol in cursor.rows(_ASSET):
        registry.add_asset(Asset(asset, _text(symbol), decimals))
    for market, base, quote, low, high, tick_lot, symbol, *bounds in cursor.rows(_MARKET):
        least, most, notional, notional_high, band, slippage, max_age, revision = bounds
        limits = MarketLimits(least, most, notional | notional_high << 64, band, slippage, max_age, revision)
        registry.add_market(Market(market, _text(symbol), base, quote, low | high << 64, tick_lot, limits))
        state.books[market] = Book()
    for account, name, status, trade, withdraw, holds, tier in cursor.rows(_ACCOUNT):
        registry.add_account(Account(account, _text(name), AccountState(status), trade, withdraw, Hold(holds)))
        if tier:
            state.account_tiers[account] = tier
