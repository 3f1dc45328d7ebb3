"""Amounts of 128 bits as two unsigned words, low one first: 18-decimal assets overflow a machine integer.

What belongs here: sums, differences, comparisons, products with an overflow flag, and the fee on a notional.
What does not: what an amount is for (see `replay_money`).

Amounts lie below 2^127 (`engine.money.MAX_UNITS`); what does not is reported as an overflow by the product that made
it, and sums of two amounts fit 128 bits, so nothing wraps unseen.
"""

from __future__ import annotations

from typing import Any

from engine.exchange.kernels.jit import inlined, multiply_high, signed, unsigned

Word = Any
Wide = tuple[Word, Word]

_MILLION = unsigned(1_000_000)
_LOW_HALF = unsigned(0xFFFF_FFFF)
_HALF = unsigned(32)
_TOP = unsigned(63)
_ONE = unsigned(1)
_ZERO = unsigned(0)


@inlined
def add(a: Wide, b: Wide) -> Wide:
    """The sum, modulo 2^128."""
    low = a[0] + b[0]
    return low, a[1] + b[1] + (_ONE if low < a[0] else _ZERO)


@inlined
def subtract(a: Wide, b: Wide) -> Wide:
    """The difference, modulo 2^128."""
    return a[0] - b[0], a[1] - b[1] - (_ONE if a[0] < b[0] else _ZERO)


@inlined
def less(a: Wide, b: Wide) -> bool:
    """Whether one unsigned amount is less than another."""
    return bool(a[1] < b[1] or (a[1] == b[1] and a[0] < b[0]))


@inlined
def scaled(a: Wide, factor: Word) -> tuple[Word, Word, bool]:
    """An amount times an unsigned word, and whether it is 2^127 or more."""
    low = a[0] * factor
    carry = multiply_high(a[0], factor)
    middle = a[1] * factor
    high = carry + middle
    beyond = multiply_high(a[1], factor) != _ZERO or high < carry or (high >> _TOP) != _ZERO
    return low, high, beyond


@inlined
def product(a: Word, b: Word, c: Word) -> tuple[Word, Word, bool]:
    """The product of three unsigned words, and whether it is 2^127 or more."""
    low, high, beyond = scaled((a * b, multiply_high(a, b)), c)
    return low, high, beyond


@inlined
def _by_million(a: Wide) -> tuple[Word, Word, Word]:
    """Quotient (two words) and remainder of an amount by a million."""
    if a[1] == _ZERO:
        quotient = a[0] // _MILLION
        return quotient, _ZERO, a[0] - quotient * _MILLION
    high = a[1] // _MILLION
    rest = a[1] - high * _MILLION
    upper = (rest << _HALF) | (a[0] >> _HALF)
    first = upper // _MILLION
    rest = upper - first * _MILLION
    lower = (rest << _HALF) | (a[0] & _LOW_HALF)
    second = lower // _MILLION
    return (first << _HALF) | second, high, lower - second * _MILLION


@inlined
def fee(notional: Wide, rate_ppm: int) -> Wide:
    """`engine.money.fee_units`: a fee rounds up; a rebate rounds down and is returned as two's complement."""
    low, high, rest = _by_million(notional)
    if rate_ppm >= 0:
        rate = unsigned(rate_ppm)
        part = (rest * rate + _MILLION - _ONE) // _MILLION
        whole = (low * rate, multiply_high(low, rate) + high * rate)
        return add(whole, (part, _ZERO))
    rate = unsigned(-rate_ppm)
    part = rest * rate // _MILLION
    whole = (low * rate, multiply_high(low, rate) + high * rate)
    return subtract((_ZERO, _ZERO), add(whole, (part, _ZERO)))


@inlined
def is_negative(a: Wide) -> bool:
    """Whether a two's complement amount is below zero."""
    return bool(signed(a[1]) < 0)


@inlined
def least(a: Wide, b: Wide) -> Wide:
    """The lesser of two's complement amounts, the second of which is not negative."""
    return a if is_negative(a) or less(a, b) else b
