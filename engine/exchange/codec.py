"""One journal record: 160 bytes, little-endian, CRC-32 chained to the record before.

What belongs here: the exact bytes of a command and back, and the ranges that they can hold.
What does not: the file that the records lie in (see `journal`).

    0 seq u64 | 8 ts_us i64 | 16 effective_us i64 | 24 kind u8 | 25 side u8 | 26 tif u8 | 27 flags u8
    28 market u16 | 30 asset u16 | 32 aux 3 x u32 | 44 account u64 | 52 order_id u64 | 60 price i64
    68 quantity i64 | 76 amount u128 | 92 text 64 bytes, zero-padded | 156 CRC-32 u32

The CRC covers the first 156 bytes, seeded with the CRC of the record before (of the header for the first).
What does not fit a record is refused here, before it is sequenced; what fits and is wrong is journalled and rejected.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from engine.errors import InputError
from engine.exchange import commands as cmd
from engine.exchange.events import Side
from engine.money import MAX_UNITS

RECORD_BYTES = 160
BODY_BYTES = 156
KIND_OFFSET = 24
TEXT_BYTES = 64
_BODY = struct.Struct("<QqqBBBBHHIIIQQqqQQ64s")
_CRC = struct.Struct("<I")
_SEQ = struct.Struct("<Q")
_LOW = 2**64 - 1
_EFFECTIVE_GIVEN = 1

_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9._-]{0,31}")
_NAME = re.compile(r"[a-z0-9-]{1,64}")


class Kind(IntEnum):
    """The command of a record, by number; a number is never used again for another command."""

    SET_ASSET = 1
    SET_MARKET = 2
    OPEN_ACCOUNT = 3
    SET_TIERS = 4
    OPENING_BALANCE = 5
    DEPOSIT = 6
    WITHDRAWAL = 7
    WITHDRAWAL_CONFIRMED = 8
    WITHDRAWAL_FAILED = 9
    NEW_ORDER = 10
    CANCEL_ORDER = 11
    CUT_OFF = 12


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """A sequenced command: its place, its times and the CRC that proves everything up to it."""

    seq: int
    ts_us: int
    effective_us: int
    command: cmd.Command
    crc: int


# side, tif, market, asset, aux1, aux2, aux3, account, order_id, price, quantity, amount, text
_Fields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, str]


def _asset(c: cmd.SetAsset) -> _Fields:
    return (0, 0, 0, c.asset, c.decimals, 0, 0, 0, 0, 0, 0, 0, _matching(_SYMBOL, c.symbol, "a symbol"))


def _market(c: cmd.SetMarket) -> _Fields:
    text = _matching(_SYMBOL, c.symbol, "a symbol")
    return (0, 0, c.market, c.base, c.quote, 0, 0, 0, 0, c.quote_units_per_tick_lot, 0, c.base_units_per_lot, text)


def _account(c: cmd.OpenAccount) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, c.account, 0, 0, 0, 0, _matching(_NAME, c.name, "an account name"))


def _tiers(c: cmd.SetTiers) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, 0, 0, c.maker_rate_ppm, c.taker_rate_ppm, 0, "")


def _transfer(c: cmd.TransferCommand) -> _Fields:
    if not c.reference:
        raise InputError("a transfer without a reference", rule="1 to 64 printable ASCII characters")
    return (0, 0, 0, c.asset, 0, 0, 0, c.account, 0, 0, 0, c.units, c.reference)


def _order(c: cmd.NewOrder) -> _Fields:
    if c.side not in (0, 1) or c.tif not in (0, 1):
        raise InputError(f"order with side {c.side!r} and time in force {c.tif!r}", rule="BUY or SELL; GTC or IOC")
    return (c.side, c.tif, c.market, 0, 0, 0, 0, c.account, 0, c.price_ticks, c.quantity_lots, 0, c.reference)


def _cancel(c: cmd.CancelOrder) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, c.account, c.order_id, 0, 0, 0, "")


def _cut_off(c: cmd.CutOff) -> _Fields:
    return (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c.close_day, 0, "")


def _matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise InputError(f"{text[:80]!r} is not {what}", rule=f"matches {pattern.pattern}")
    return text


_ENCODERS: dict[type, tuple[Kind, Callable[[Any], _Fields]]] = {
    cmd.SetAsset: (Kind.SET_ASSET, _asset),
    cmd.SetMarket: (Kind.SET_MARKET, _market),
    cmd.OpenAccount: (Kind.OPEN_ACCOUNT, _account),
    cmd.SetTiers: (Kind.SET_TIERS, _tiers),
    cmd.OpeningBalance: (Kind.OPENING_BALANCE, _transfer),
    cmd.Deposit: (Kind.DEPOSIT, _transfer),
    cmd.Withdrawal: (Kind.WITHDRAWAL, _transfer),
    cmd.WithdrawalConfirmed: (Kind.WITHDRAWAL_CONFIRMED, _transfer),
    cmd.WithdrawalFailed: (Kind.WITHDRAWAL_FAILED, _transfer),
    cmd.NewOrder: (Kind.NEW_ORDER, _order),
    cmd.CancelOrder: (Kind.CANCEL_ORDER, _cancel),
    cmd.CutOff: (Kind.CUT_OFF, _cut_off),
}

_TRANSFERS: dict[int, Callable[..., cmd.Command]] = {
    Kind.OPENING_BALANCE: cmd.OpeningBalance,
    Kind.DEPOSIT: cmd.Deposit,
    Kind.WITHDRAWAL: cmd.Withdrawal,
    Kind.WITHDRAWAL_CONFIRMED: cmd.WithdrawalConfirmed,
    Kind.WITHDRAWAL_FAILED: cmd.WithdrawalFailed,
}
_SIDES = (Side.BUY, Side.SELL)
_TIFS = (cmd.TimeInForce.GTC, cmd.TimeInForce.IOC)


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
        if amount > MAX_UNITS or (text and not (text.isascii() and text.isprintable())) or len(text) > TEXT_BYTES:
            raise InputError(
                f"{type(command).__name__}: {text[:80]!r}, {amount}: does not fit a journal record",
                rule="texts are at most 64 printable ASCII characters, amounts below 2^127 units",
                next_step="correct the command and send it again",
            )
        flags = 0 if given is None else _EFFECTIVE_GIVEN
        # fmt: off
        body = _BODY.pack(
            seq, ts_us, effective, kind, side, tif, flags, market, asset, aux1, aux2, aux3,
            account, order_id, price, quantity, amount & _LOW, amount >> 64, text.encode("ascii"),
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
        ValueError: a kind, side or time in force that this version does not know.
    """
    # fmt: off
    (
        seq, ts_us, effective, kind, side, tif, flags, market, asset, aux1, _aux2, _aux3,
        account, order_id, price, quantity, low, high, text,
    ) = _BODY.unpack_from(raw)
    # fmt: on
    given = effective if flags & _EFFECTIVE_GIVEN else None
    words = text.rstrip(b"\0").decode("ascii")
    command: cmd.Command
    if kind == Kind.NEW_ORDER:
        if side > 1 or tif > 1:
            raise ValueError(f"side {side}, time in force {tif}")
        command = cmd.NewOrder(account, market, _SIDES[side], price, quantity, _TIFS[tif], words, given)
    elif kind == Kind.CANCEL_ORDER:
        command = cmd.CancelOrder(account, order_id, given)
    elif kind in _TRANSFERS:
        command = _TRANSFERS[kind](account, asset, low | high << 64, words, given)
    elif kind == Kind.OPEN_ACCOUNT:
        command = cmd.OpenAccount(account, words, given)
    elif kind == Kind.CUT_OFF:
        command = cmd.CutOff(quantity, given)
    elif kind == Kind.SET_TIERS:
        command = cmd.SetTiers(price, quantity, given)
    elif kind == Kind.SET_ASSET:
        command = cmd.SetAsset(asset, words, aux1, given)
    elif kind == Kind.SET_MARKET:
        command = cmd.SetMarket(market, words, asset, aux1, low | high << 64, price, given)
    else:
        raise ValueError(f"kind {kind} is of a later version")
    return JournalRecord(seq, ts_us, effective, command, crc_of(raw))
