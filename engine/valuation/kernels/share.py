"""The share of an amount: a x b / d for amounts of 128 bits, exact, rounded once.

What belongs here: the product of 256 bits, its division, and the comparison of two products.
What does not: what is shared (see `lots`).

Source of the divisions: Knuth, The Art of Computer Programming 2, 4.3.1, algorithm D, with digits of 64 bits; the digit
itself as in Hacker's Delight, `divlu`.
"""

from __future__ import annotations

from typing import Any

from engine.exchange.kernels.jit import inlined, leading_zeros, multiply_high, unsigned
from engine.exchange.kernels.wide import Wide, add, less, subtract

Word = Any

_ZERO = unsigned(0)
_ONE = unsigned(1)
_HALF = unsigned(32)
_TOP = unsigned(63)
_BASE = unsigned(1 << 32)
_LOW_HALF = unsigned(0xFFFF_FFFF)
_ALL = unsigned(0xFFFF_FFFF_FFFF_FFFF)


@inlined
def _up(high: Word, low: Word, shift: Word) -> Word:
    """The upper word of two shifted left by 0 to 63 bits."""
    return (high << shift) | ((low >> _ONE) >> (_TOP - shift))


@inlined
def divide_two(high: Word, low: Word, divisor: Word) -> tuple[Word, Word]:
    """Quotient and remainder of two words by one that is greater than the upper of them."""
    if high == _ZERO:
        quotient = low // divisor
        return quotient, low - quotient * divisor
    shift = unsigned(leading_zeros(divisor))
    d = divisor << shift
    n2 = _up(high, low, shift)
    n1 = (low << shift) >> _HALF
    n0 = (low << shift) & _LOW_HALF
    d1, d0 = d >> _HALF, d & _LOW_HALF
    first = n2 // d1
    rest = n2 - first * d1
    while first >= _BASE or first * d0 > ((rest << _HALF) | n1):
        first -= _ONE
        rest += d1
        if rest >= _BASE:
            break
    middle = ((n2 << _HALF) | n1) - first * d
    second = middle // d1
    rest = middle - second * d1
    while second >= _BASE or second * d0 > ((rest << _HALF) | n0):
        second -= _ONE
        rest += d1
        if rest >= _BASE:
            break
    return (first << _HALF) | second, (((middle << _HALF) | n0) - second * d) >> shift


@inlined
def _digit(n2: Word, n1: Word, n0: Word, d1: Word, d0: Word) -> tuple[Word, Word, Word]:
    """One word of a quotient by a divisor of two words with its top bit set, and the remainder (upper, lower)."""
    if n2 >= d1:
        quotient = _ALL
        rest = n1 + d1
        carried = rest < n1
    else:
        quotient, rest = divide_two(n2, n1, d1)
        carried = False
    while not carried and less((n0, rest), (quotient * d0, multiply_high(quotient, d0))):
        quotient -= _ONE
        rest += d1
        carried = rest < d1
    low, high = subtract((n0, rest), (quotient * d0, multiply_high(quotient, d0)))
    return quotient, high, low


@inlined
def product(a: Wide, b: Wide) -> tuple[Word, Word, Word, Word]:
    """The four words of a product, lowest first."""
    n0 = a[0] * b[0]
    n1, n2 = add((multiply_high(a[0], b[0]), _ZERO), (a[1] * b[0], multiply_high(a[1], b[0])))
    n1, carry = add((n1, _ZERO), (a[0] * b[1], multiply_high(a[0], b[1])))
    n2, n3 = add((n2, _ZERO), (carry, _ZERO))
    n2, upper = add((n2, n3), (a[1] * b[1], multiply_high(a[1], b[1])))
    return n0, n1, n2, upper


@inlined
def share(a: Wide, b: Wide, d: Wide) -> Wide:
    """The quotient a x b / d of amounts with b < d, rounded half up as Postgres rounds; it is at most a."""
    if d[1] == _ZERO:
        if a[1] == _ZERO:
            quotient, rest = divide_two(multiply_high(a[0], b[0]), a[0] * b[0], d[0])
            return (quotient + (_ONE if rest >= d[0] - rest else _ZERO)), _ZERO
        middle, high = add((multiply_high(a[0], b[0]), _ZERO), (a[1] * b[0], multiply_high(a[1], b[0])))
        upper, rest = divide_two(high, middle, d[0])
        lower, rest = divide_two(rest, a[0] * b[0], d[0])
        return add((lower, upper), (_ONE if rest >= d[0] - rest else _ZERO, _ZERO))
    shift = unsigned(leading_zeros(d[1]))
    d1, d0 = _up(d[1], d[0], shift), d[0] << shift
    n0, n1, n2, n3 = product(a, b)
    n3, n2, n1, n0 = _up(n3, n2, shift), _up(n2, n1, shift), _up(n1, n0, shift), n0 << shift
    upper, r1, r0 = _digit(n3, n2, n1, d1, d0)
    lower, r1, r0 = _digit(r1, r0, n0, d1, d0)
    half = not less((r0, r1), subtract((d0, d1), (r0, r1)))
    return add((lower, upper), (_ONE if half else _ZERO, _ZERO))


@inlined
def dearer(cost: Wide, quantity: Wide, other_cost: Wide, other_quantity: Wide) -> bool:
    """Whether cost / quantity is more than the other's, exactly."""
    a = product(cost, other_quantity)
    b = product(other_cost, quantity)
    if a[3] != b[3] or a[2] != b[2]:
        return less((b[2], b[3]), (a[2], a[3]))
    return less((b[0], b[1]), (a[0], a[1]))
