"""One journal record: 160 bytes, little-endian, CRC-32 chained to the record before.

What belongs here: the exact bytes of a command and back, and the ranges that they can hold.
What does not: the file that the records lie in (see `journal`).

    0 seq u64 | 8 ts_us i64 | 16 effective_us i64 | 24 kind u8 | 25 side u8 | 26 tif u8 | 27 flags u8
    28 market u16 | 30 asset u16 | 32 aux 3 x u32 | 44 account u64 | 52 order_id u64 | 60 price i64
    68 quantity i64 | 76 amount u128 | 92 text 64 bytes, zero-padded | 156 CRC-32 u32

The CRC covers the first 156 bytes, seeded with the CRC of the record before (of the header for the first).
A market's symbol takes the first 32 bytes of the text, its limits (`_LIMITS`) the rest and what fields are free. A new
kind of record leaves the format as it is: a reader that does not know the kind refuses to go on.

What does not fit a record is refused here, before it is sequenced; what fits and is wrong is journalled and rejected.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from engine.errors import InputError
from engine.exchange import commands as cmd
from engine.exchange import tier_records
from engine.exchange.events import Side
from engine.money import MAX_UNITS

RECORD_BYTES = 160
BODY_BYTES = 156
KIND_OFFSET = 24
TEXT_BYTES = 64
_BODY = struct.Struct("<QqqBBBBHHIIIQQqqQQ64s")
_CRC = struct.Struct("<I")
_SEQ = struct.Struct("<Q")
_LIMITS = struct.Struct("<QQQQ")
"""Least notional (two words), revision, nothing; behind a market's symbol."""
_SYMBOL_BYTES = 32
_LOW = 2**64 - 1
_MOST_TICKS = 2**63 - 1
_EFFECTIVE_GIVEN = 1
_MAY_TRADE, _MAY_WITHDRAW = 1, 2

# A NATS subject ends in it: an empty part between dots makes one that no stream takes, and events behind it would wait.
_SYMBOL = re.compile(r"(?=.{1,32}$)[A-Z0-9][A-Z0-9_-]*(\.[A-Z0-9_-]+)*")
_NAME = re.compile(r"[a-z0-9-]{1,64}")


class Kind(IntEnum):
    """The command of a record, by number; a number is never used again for another command."""

    SET_ASSET = 1
    SET_MARKET = 2
    OPEN_ACCOUNT = 3
    SET_TIER = 4
    OPENING_BALANCE = 5
    DEPOSIT = 6
    WITHDRAWAL = 7
    WITHDRAWAL_CONFIRMED = 8
    WITHDRAWAL_FAILED = 9
    NEW_ORDER = 10
    CANCEL_ORDER = 11
    CUT_OFF = 12
    CANCEL_ALL = 13
    REDUCE_ORDER = 14
    AMEND_ORDER = 15
    STAKE = 16
    UNSTAKE = 17
    REWARD = 18
    ADJUST = 19
    SET_ACCOUNT = 20
    SET_REFERENCE = 21
    SET_ACCOUNT_TIER = 22
    DEPOSIT_REVERSED = 23
    STAGE_TIER = 24
    STAGE_ACCOUNT_TIERS = 25
    SET_TIERS = 26
    MARKER = 27


class JournalRecord(NamedTuple):
    """A sequenced command: its place, its times and the CRC that proves everything up to it."""

    seq: int
    ts_us: int
    effective_us: int
    command: cmd.Command
    crc: int


# side, tif, market, asset, aux1, aux2, aux3, account, order_id, price, quantity, amount, text
_Fields = tier_records.Fields


def _asset(c: cmd.SetAsset) -> _Fields:
    return (0, 0, 0, c.asset, c.decimals, 0, 0, 0, 0, 0, 0, 0, _matching(_SYMBOL, c.symbol, "a symbol"))


def _market(c: cmd.SetMarket) -> _Fields:
    symbol = _matching(_SYMBOL, c.symbol, "a symbol").encode()
    limits = c.limits
    least = limits.min_notional_units
    if not 0 <= least <= MAX_UNITS:
        raise InputError(f"market {c.symbol}: least notional {least}", rule="amounts are below 2^127 units")
    text = symbol.ljust(_SYMBOL_BYTES, b"\0") + _LIMITS.pack(least & _LOW, least >> 64, limits.revision, 0)
    # fmt: off
    return (
        0, 0, c.market, c.base, c.quote, limits.band_ppm, limits.slippage_ppm, limits.min_quantity_lots,
        limits.max_quantity_lots, c.quote_units_per_tick_lot, limits.reference_max_age_us, c.base_units_per_lot, text,
    )
    # fmt: on


def _account(c: cmd.OpenAccount) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, c.account, 0, 0, 0, 0, _matching(_NAME, c.name, "an account name"))


def _tiers(c: cmd.SetTier) -> _Fields:
    return (0, 0, c.tier, 0, 0, 0, 0, 0, 0, c.maker_rate_ppm, c.taker_rate_ppm, 0, c.reference)


def _account_tier(c: cmd.SetAccountTier) -> _Fields:
    return (0, 0, c.tier, 0, 0, 0, 0, c.account, 0, 0, 0, 0, _key(c.reference))


def _set_account(c: cmd.SetAccount) -> _Fields:
    rights = (_MAY_TRADE if c.may_trade else 0) | (_MAY_WITHDRAW if c.may_withdraw else 0)
    if c.state not in _STATES:
        raise InputError(f"account {c.account} in state {c.state!r}", rule="one of the eight states of an account")
    if not 0 <= c.holds <= _EVERY_HOLD:
        raise InputError(
            f"account {c.account} with holds {c.holds!r}", rule="break, sanctions, dispute, legal, closure"
        )
    return (c.state, rights, 0, 0, int(c.holds), 0, 0, c.account, 0, 0, 0, 0, _key(c.reference))


def _set_reference(c: cmd.SetReference) -> _Fields:
    return (0, 0, c.market, 0, 0, 0, 0, 0, 0, c.price_ticks, 0, 0, c.reference)


def _key(reference: str) -> str:
    if not reference:
        raise InputError("a command without a reference", rule="1 to 64 printable ASCII characters")
    return reference


def _transfer(c: cmd.TransferCommand) -> _Fields:
    return (0, 0, 0, c.asset, 0, 0, 0, c.account, 0, 0, 0, c.units, _key(c.reference))


def _adjust(c: cmd.Adjust) -> _Fields:
    return (int(c.units < 0), 0, 0, c.asset, 0, 0, 0, c.account, 0, 0, 0, abs(c.units), _key(c.reference))


def _order(c: cmd.NewOrder) -> _Fields:
    if c.side not in (0, 1) or not 0 <= c.tif < len(_TIFS):
        raise InputError(
            f"order with side {c.side!r} and time in force {c.tif!r}",
            rule="BUY or SELL; GTC, IOC, FOK, POST_ONLY or MARKET",
        )
    reserve = c.reserve_price_ticks
    if not 0 <= reserve <= _MOST_TICKS:
        raise InputError(f"order with reserve price {reserve}", rule="0, or a price of 64 bits")
    return (c.side, c.tif, c.market, 0, 0, 0, 0, c.account, 0, c.price_ticks, c.quantity_lots, reserve, c.reference)


def _cancel(c: cmd.CancelOrder) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, c.account, c.order_id, 0, 0, 0, "")


def _cancel_all(c: cmd.CancelAll) -> _Fields:
    return (0, 0, c.market, 0, 0, 0, 0, c.account, 0, 0, 0, 0, c.reference)


def _reduce(c: cmd.ReduceOrder) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, c.account, c.order_id, 0, c.quantity_lots, 0, "")


def _amend(c: cmd.AmendOrder) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, c.account, c.order_id, c.price_ticks, c.quantity_lots, 0, "")


def _cut_off(c: cmd.CutOff) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c.close_day, 0, "")


def _marker(c: cmd.Marker) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c.reference)


def _matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise InputError(f"{text[:80]!r} is not {what}", rule=f"matches {pattern.pattern}")
    return text


_ENCODERS: dict[type, tuple[Kind, Callable[[Any], _Fields]]] = {
    cmd.SetAsset: (Kind.SET_ASSET, _asset),
    cmd.SetMarket: (Kind.SET_MARKET, _market),
    cmd.OpenAccount: (Kind.OPEN_ACCOUNT, _account),
    cmd.SetTier: (Kind.SET_TIER, _tiers),
    cmd.OpeningBalance: (Kind.OPENING_BALANCE, _transfer),
    cmd.Deposit: (Kind.DEPOSIT, _transfer),
    cmd.DepositReversed: (Kind.DEPOSIT_REVERSED, _transfer),
    cmd.Withdrawal: (Kind.WITHDRAWAL, _transfer),
    cmd.WithdrawalConfirmed: (Kind.WITHDRAWAL_CONFIRMED, _transfer),
    cmd.WithdrawalFailed: (Kind.WITHDRAWAL_FAILED, _transfer),
    cmd.NewOrder: (Kind.NEW_ORDER, _order),
    cmd.CancelOrder: (Kind.CANCEL_ORDER, _cancel),
    cmd.CutOff: (Kind.CUT_OFF, _cut_off),
    cmd.CancelAll: (Kind.CANCEL_ALL, _cancel_all),
    cmd.ReduceOrder: (Kind.REDUCE_ORDER, _reduce),
    cmd.AmendOrder: (Kind.AMEND_ORDER, _amend),
    cmd.Stake: (Kind.STAKE, _transfer),
    cmd.Unstake: (Kind.UNSTAKE, _transfer),
    cmd.Reward: (Kind.REWARD, _transfer),
    cmd.Adjust: (Kind.ADJUST, _adjust),
    cmd.SetAccount: (Kind.SET_ACCOUNT, _set_account),
    cmd.SetReference: (Kind.SET_REFERENCE, _set_reference),
    cmd.SetAccountTier: (Kind.SET_ACCOUNT_TIER, _account_tier),
    cmd.StageTier: (Kind.STAGE_TIER, tier_records.rates),
    cmd.StageAccountTiers: (Kind.STAGE_ACCOUNT_TIERS, tier_records.members),
    cmd.SetTiers: (Kind.SET_TIERS, tier_records.batch),
    cmd.Marker: (Kind.MARKER, _marker),
}

_TRANSFERS: dict[int, Callable[..., cmd.Command]] = {
    Kind.OPENING_BALANCE: cmd.OpeningBalance,
    Kind.DEPOSIT: cmd.Deposit,
    Kind.DEPOSIT_REVERSED: cmd.DepositReversed,
    Kind.WITHDRAWAL: cmd.Withdrawal,
    Kind.WITHDRAWAL_CONFIRMED: cmd.WithdrawalConfirmed,
    Kind.WITHDRAWAL_FAILED: cmd.WithdrawalFailed,
    Kind.STAKE: cmd.Stake,
    Kind.UNSTAKE: cmd.Unstake,
    Kind.REWARD: cmd.Reward,
    Kind.ADJUST: cmd.Adjust,
}
_SIDES = (Side.BUY, Side.SELL)
_TIFS = tuple(cmd.TimeInForce)
_STATES = {int(state): state for state in cmd.AccountState}
_EVERY_HOLD = sum(cmd.Hold)


def encode(seq: int, ts_us: int, command: cmd.Command, previous_crc: int) -> tuple[bytes, JournalRecord]:
    """The 160 bytes of a command at its place, and the record that they stand for.

    Raises:
        InputError: a number or text does not fit the record; nothing was sequenced.
    """
    try:
        kind, fields_of = _ENCODERS[type(command)]
        side, tif, market, asset, aux1, aux2, aux3, account, order_id, price, quantity, amount, text = fields_of(
            command
        )
        given = command.effective_us
        effective = ts_us if given is None else given
        packed = text if isinstance(text, bytes) else _packed(text)
        if amount > MAX_UNITS:
            raise InputError(
                f"{type(command).__name__}: {amount} does not fit a journal record",
                rule="amounts are below 2^127 units",
                next_step="correct the command and send it again",
            )
        flags = 0 if given is None else _EFFECTIVE_GIVEN
        # fmt: off
        body = _BODY.pack(
            seq, ts_us, effective, kind, side, tif, flags, market, asset, aux1, aux2, aux3,
            account, order_id, price, quantity, amount & _LOW, amount >> 64, packed,
        )
        # fmt: on
    except (struct.error, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{str(command)[:200]}: does not fit a journal record ({error})",
            rule="ids are unsigned, prices and quantities 64-bit integers, amounts below 2^127 units",
            next_step="correct the command and send it again",
        ) from None
    crc = zlib.crc32(body, previous_crc)
    return body + _CRC.pack(crc), JournalRecord(seq, ts_us, effective, command, crc)


def _packed(text: str) -> bytes:
    if len(text) > TEXT_BYTES or (text and not (text.isascii() and text.isprintable())):
        raise InputError(
            f"{text[:80]!r} does not fit a journal record",
            rule="texts are at most 64 printable ASCII characters",
            next_step="correct the command and send it again",
        )
    return text.encode("ascii")


def crc_of(raw: bytes) -> int:
    """The CRC that a record states."""
    crc: int = _CRC.unpack_from(raw, BODY_BYTES)[0]
    return crc


def is_good(raw: bytes, seq: int, previous_crc: int) -> bool:
    """Whether a record is the one of this sequence and chains to the record before it."""
    return zlib.crc32(raw[:BODY_BYTES], previous_crc) == crc_of(raw) and _SEQ.unpack_from(raw)[0] == seq


def decode(raw: bytes) -> JournalRecord:
    """The record of 160 bytes whose CRC has been checked.

    Raises:
        ValueError: a kind, side or time in force that this version does not know, or what no version writes.
    """
    # fmt: off
    (
        seq, ts_us, effective, kind, side, tif, flags, market, asset, aux1, aux2, aux3,
        account, order_id, price, quantity, low, high, text,
    ) = _BODY.unpack_from(raw)
    # fmt: on
    given = effective if flags & _EFFECTIVE_GIVEN else None
    command: cmd.Command
    if kind == Kind.NEW_ORDER:
        if side > 1 or tif >= len(_TIFS) or high or low > _MOST_TICKS:
            raise ValueError(f"side {side}, time in force {tif}, reserve price {low | high << 64}")
        command = cmd.NewOrder(account, market, _SIDES[side], price, quantity, _TIFS[tif], _words(text), given, low)
    elif kind in _TRANSFERS:
        units = low | high << 64
        if kind == Kind.ADJUST and side:
            units = -units
        command = _TRANSFERS[kind](account, asset, units, _words(text), given)
    elif kind == Kind.SET_MARKET:
        command = _decoded_market(
            (market, asset, aux1, low | high << 64, price, given), (aux2, aux3, account, order_id, quantity), text
        )
    elif kind == Kind.STAGE_ACCOUNT_TIERS:
        four = account, order_id, price, quantity
        command = tier_records.row_of(market, aux1, aux2, four, low, text, given)
    elif kind == Kind.STAGE_TIER:
        command = cmd.StageTier(low, aux2, market, price, quantity, given)
    elif kind == Kind.SET_TIERS:
        digest = tier_records.sha256_of((account, order_id, price, quantity))
        command = cmd.SetTiers(low, aux1, aux2, digest, _words(text), given)
    elif kind in _DECODERS:
        command = _DECODERS[kind](side, tif, market, asset, aux1, account, order_id, price, quantity, text, given)
    else:
        raise ValueError(f"kind {kind} is of a later version")
    return JournalRecord(seq, ts_us, effective, command, crc_of(raw))


def _words(text: bytes) -> str:
    found = text.rstrip(b"\0").decode("ascii")
    if not found.isprintable():
        raise ValueError(f"text {found!r}")
    return found


def _decoded_market(
    fields: tuple[int, int, int, int, int, int | None], limits: tuple[int, int, int, int, int], text: bytes
) -> cmd.SetMarket:
    market, base, quote, per_lot, per_tick_lot, given = fields
    band, slippage, least_lots, most_lots, max_age = limits
    low, high, revision, _ = _LIMITS.unpack_from(text, _SYMBOL_BYTES)
    bounds = cmd.MarketLimits(least_lots, most_lots, low | high << 64, band, slippage, max_age, revision)
    symbol = _words(text[:_SYMBOL_BYTES])
    return cmd.SetMarket(market, symbol, base, quote, per_lot, per_tick_lot, given, bounds)


def _decoded_account(
    side: int, tif: int, _m: int, _a: int, holds: int, account: int, _o: int, _p: int, _q: int, text: bytes,
    given: int | None,
) -> cmd.SetAccount:  # fmt: skip
    state = _STATES.get(side)
    if state is None:
        raise ValueError(f"account state {side}")
    rights = bool(tif & _MAY_TRADE), bool(tif & _MAY_WITHDRAW)
    return cmd.SetAccount(account, state, *rights, cmd.Hold(holds), _words(text), given)


# side, tif, market, asset, aux1, account, order_id, price, quantity, text, effective
_DECODERS: dict[int, Callable[..., cmd.Command]] = {
    Kind.CANCEL_ORDER: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.CancelOrder(c, o, e),
    Kind.CANCEL_ALL: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.CancelAll(c, m, e, _words(t)),
    Kind.REDUCE_ORDER: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.ReduceOrder(c, o, q, e),
    Kind.AMEND_ORDER: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.AmendOrder(c, o, p, q, e),
    Kind.OPEN_ACCOUNT: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.OpenAccount(c, _words(t), e),
    Kind.CUT_OFF: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.CutOff(q, e),
    Kind.SET_TIER: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.SetTier(p, q, e, m, _words(t)),
    Kind.SET_ACCOUNT_TIER: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.SetAccountTier(c, m, _words(t), e),
    Kind.SET_ASSET: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.SetAsset(a, _words(t), x, e),
    Kind.SET_REFERENCE: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.SetReference(m, p, e, _words(t)),
    Kind.SET_ACCOUNT: _decoded_account,
    Kind.MARKER: lambda s, f, m, a, x, c, o, p, q, t, e: cmd.Marker(_words(t), e),
}
