"""The fields of a batch of tiers in a journal record.

What belongs here: rows of a batch and the command that ends it, as the numbers of a record and back.
What does not: the record's layout (see `codec`), and what the commands do (see `configuration`).

A row carries its batch in `amount`, its number in `aux2`, its tier in `market`. Rates lie in price and quantity; of up
to 12 accounts (`aux1` of them) four lie in account, order_id, price and quantity, the rest in the text. `SetTiers`
carries how many tiers and accounts in `aux1` and `aux2`, and the digest where rows have their first four accounts.
"""

from __future__ import annotations

import re
import struct

from engine.errors import InputError
from engine.exchange import commands as cmd

MOST_ACCOUNTS = 12
"""Accounts of one row."""
_FOUR = struct.Struct("<QQqq")
_ACCOUNTS = struct.Struct(f"<{MOST_ACCOUNTS}Q")
_SHA256 = re.compile("[0-9a-f]{64}")

Fields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, str | bytes]


def _number(batch: int) -> int:
    if not 0 <= batch < 2**64:
        raise InputError(f"batch {batch} of tiers", rule="numbers of batches have 64 bits")
    return batch


def rates(c: cmd.StageTier) -> Fields:
    """The fields of a row of rates."""
    return (0, 0, c.tier, 0, 0, c.row, 0, 0, 0, c.maker_rate_ppm, c.taker_rate_ppm, _number(c.batch), "")


def members(c: cmd.StageAccountTiers) -> Fields:
    """The fields of a row of accounts."""
    count = len(c.accounts)
    if not 1 <= count <= MOST_ACCOUNTS:
        raise InputError(f"row {c.row} of batch {c.batch} has {count} accounts", rule=f"1 to {MOST_ACCOUNTS} accounts")
    packed = _ACCOUNTS.pack(*c.accounts, *[0] * (MOST_ACCOUNTS - count))
    return (0, 0, c.tier, 0, count, c.row, 0, *_FOUR.unpack_from(packed), _number(c.batch), packed[_FOUR.size :])


def batch(c: cmd.SetTiers) -> Fields:
    """The fields of the end of a batch."""
    if not c.reference or not _SHA256.fullmatch(c.sha256):
        raise InputError(
            f"batch {c.batch} of tiers with reference {c.reference!r} and digest {c.sha256[:80]!r}",
            rule="a reference of 1 to 64 printable ASCII characters, and 64 hex digits",
        )
    return (0, 0, 0, 0, c.tiers, c.accounts, 0, *_FOUR.unpack(bytes.fromhex(c.sha256)), _number(c.batch), c.reference)


def row_of(
    tier: int, count: int, row: int, four: tuple[int, int, int, int], number: int, text: bytes, given: int | None
) -> cmd.StageAccountTiers:
    """The row of accounts that a record's fields say.

    Raises:
        ValueError: more accounts than a row has, or none.
    """
    if not 1 <= count <= MOST_ACCOUNTS:
        raise ValueError(f"a row of {count} accounts")
    accounts = _ACCOUNTS.unpack(_FOUR.pack(*four) + text)[:count]
    return cmd.StageAccountTiers(number, row, tier, accounts, given)


def sha256_of(four: tuple[int, int, int, int]) -> str:
    """The digest that a record's fields say."""
    return _FOUR.pack(*four).hex()
