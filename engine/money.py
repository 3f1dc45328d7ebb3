"""Amounts: Decimal at the edges, integers of smallest units inside. Never a float.

What belongs here: conversion between text, `Decimal` and units, and the rounding that fees use.
What does not: what an amount means (see `ledger`, `exchange`).
"""

from __future__ import annotations

import decimal
import re
from decimal import Decimal

from engine.errors import InputError, UncheckedError

MAX_DECIMALS = 18
"""NUMERIC(38,18) holds no more; an asset configured with more is refused."""

MAX_UNITS = 2**127 - 1
"""Largest amount anywhere, so that a proof's u128 sums never overflow (docs: proof of reserves, format 1)."""

MAX_DIGITS = 20
"""Digits before the point of what NUMERIC(38,18) holds: amounts and prices of the books."""

PPM = 1_000_000
"""Rates are in parts per million."""

CONTEXT = decimal.Context(
    prec=80,
    rounding=decimal.ROUND_HALF_EVEN,
    traps=[decimal.InvalidOperation, decimal.Overflow, decimal.Inexact, decimal.FloatOperation],
)
"""Exact arithmetic: a result that does not fit 80 digits raises instead of rounding."""

_NEAR = 40
"""Powers of ten within which an amount is a ratio of small integers: five times as quick as by its digits."""
_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


def parse_decimal(text: str, *, record: str) -> Decimal:
    """Read a plain decimal number.

    Args:
        text: digits with an optional sign and fraction; no exponent, space, NaN or leading zero.
        record: what the number belongs to, for the error.

    Raises:
        InputError: the text is anything else.
    """
    if not isinstance(text, str) or len(text) > 64 or not _PLAIN.fullmatch(text):
        raise InputError(
            f"{record}: {str(text)[:80]!r} is not a plain decimal number",
            rule="digits, an optional sign and fraction; no exponent, space or leading zero",
            next_step="correct the record at its source and send it again",
        )
    return CONTEXT.create_decimal(text)


def to_units(amount: Decimal, decimals: int, *, record: str) -> int:
    """Convert an amount to an integer of smallest units, exactly.

    Raises:
        InputError: the amount has more decimals than its asset, or is beyond 2^127.
    """
    if amount.is_finite() and -_NEAR < amount.adjusted() < _NEAR:
        numerator, denominator = amount.as_integer_ratio()
        units, part = divmod(numerator * int(10**decimals), denominator)
        if not part and -MAX_UNITS <= units <= MAX_UNITS:
            return units
    sign, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int):
        raise InputError(f"{record}: {amount} is not a number", rule="amounts are finite")
    value = int("".join(map(str, digits)) or "0")
    shift = exponent + decimals
    if shift < 0:
        value, rest = divmod(value, 10**-shift)
        if rest:
            raise InputError(
                f"{record}: {amount:f} has more than {decimals} decimals",
                rule="an amount is a whole number of its asset's smallest unit",
                next_step="correct the amount, or the asset's decimals in the policy",
            )
    elif shift > 80:
        raise InputError(f"{record}: {amount:f} is too large", rule="amounts lie within 2^127 smallest units")
    else:
        value *= int(10**shift)
    if value > MAX_UNITS:
        raise InputError(f"{record}: {amount:f} is too large", rule="amounts lie within 2^127 smallest units")
    return -value if sign else value


def from_units(units: int, decimals: int) -> Decimal:
    """An integer of smallest units as an exact `Decimal`."""
    return Decimal(units).scaleb(-decimals, CONTEXT)


def most_units(decimals: int) -> int:
    """The largest amount of an asset that the books can hold, in smallest units."""
    return min(MAX_UNITS, int(10 ** (MAX_DIGITS + decimals)) - 1)


def storable(units: int, decimals: int, subject: str) -> None:
    """Refuse an amount that an outside source states and that no column of the books can hold.

    Raises:
        UncheckedError: it is beyond 2^127 smallest units, or beyond 20 digits before the point.
    """
    if abs(units) > most_units(decimals):
        raise UncheckedError(
            f"{subject} states {text_of(from_units(units, decimals))}: more than the books can hold",
            rule="amounts lie within 2^127 smallest units and 20 digits before the point",
            next_step="ask the source; it is read again at the next collection",
        )


def text_of(amount: Decimal) -> str:
    """The plain text of an amount, without exponent or trailing zeros."""
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def fee_units(notional_units: int, rate_ppm: int) -> int:
    """The fee on a notional at a rate in parts per million, in smallest units.

    Fees round up and rebates (negative rates) round towards the exchange too, so a trade never loses it a unit.
    """
    return -((-notional_units * rate_ppm) // PPM)
