"""Fields of Postgres' binary COPY and of canonical text, written into byte arrays.

What belongs here: one field at a time; each function writes at a place and returns the place after it.
What does not: rows (see `settlement_rows`), and the same fields in plain Python (see `engine.store.copy_binary`).

A wide integer is two 64-bit halves: a signed upper and an unsigned lower one.
"""

from __future__ import annotations

from engine.exchange.kernels.jit import Array, inlined, kernel, signed, unsigned

LIMBS = 5
"""32-bit parts of a wide integer's magnitude times 1,000."""
GROUPS = 12
"""Groups of four decimal digits that hold it."""


@inlined
def put_int(out: Array, at: int, width: int, value: int) -> int:
    """A field of a big-endian integer of 2, 4 or 8 bytes, its length before it."""
    at = put_bare(out, at, 4, width)
    return put_bare(out, at, width, value)


@inlined
def put_bare(out: Array, at: int, width: int, value: int) -> int:
    """A big-endian integer."""
    for n in range(width):
        out[at + n] = (value >> (8 * (width - 1 - n))) & 0xFF
    return at + width


@inlined
def put_text(out: Array, at: int, texts: Array, start: int, end: int) -> int:
    """A field of the bytes `texts[start:end]`."""
    at = put_bare(out, at, 4, end - start)
    return put_bytes(out, at, texts, start, end)


@inlined
def put_bytes(out: Array, at: int, texts: Array, start: int, end: int) -> int:
    """The bytes `texts[start:end]`, without a length."""
    for n in range(start, end):
        out[at] = texts[n]
        at += 1
    return at


@inlined
def is_opposite(upper: int, lower: int, other_upper: int, other_lower: int) -> bool:
    """Whether two wide integers are not zero and add up to it."""
    low, high = unsigned(~lower) + unsigned(1), ~upper
    if low == unsigned(0):
        high += signed(1)
    return bool(low == other_lower and high == other_upper and (upper < 0) != (other_upper < 0))


@kernel
def split_groups(upper: int, lower: int, times: int, limbs: Array, groups: Array) -> int:
    """The magnitude of a wide integer, times 1 to 1,000, as groups of four digits, lowest first; returns how many.

    Args:
        upper: signed upper half.
        lower: unsigned lower half.
        times: what to multiply by.
        limbs: scratch, uint64[LIMBS].
        groups: out, int64[GROUPS].
    """
    low, high = unsigned(lower), unsigned(upper)
    if upper < 0:
        low = unsigned(~low) + unsigned(1)
        high = unsigned(~high)
        if low == unsigned(0):
            high += unsigned(1)
    if high == unsigned(0) and low <= unsigned(0xFFFFFFFFFFFFFFFF) // unsigned(times):
        # One machine word, as nearly all amounts are: half the divisions.
        rest, short = low * unsigned(times), 0
        while rest != unsigned(0):
            part = rest // unsigned(10_000)
            groups[short] = signed(rest - part * unsigned(10_000))
            rest = part
            short += 1
        return short
    mask, half = unsigned(0xFFFFFFFF), unsigned(32)
    limbs[0], limbs[1], limbs[2], limbs[3], limbs[4] = low & mask, low >> half, high & mask, high >> half, unsigned(0)
    if times != 1:
        carry = unsigned(0)
        for n in range(LIMBS):
            product = limbs[n] * unsigned(times) + carry
            limbs[n] = product & mask
            carry = product >> half
    top, count = LIMBS - 1, 0
    while True:
        while top >= 0 and limbs[top] == unsigned(0):
            top -= 1
        if top < 0:
            return count
        rest = unsigned(0)
        for n in range(top, -1, -1):
            part = (rest << half) | limbs[n]
            limbs[n] = part // unsigned(10_000)
            rest = part - limbs[n] * unsigned(10_000)
        groups[count] = signed(rest)
        count += 1


@kernel
def put_numeric(out: Array, at: int, upper: int, lower: int, decimals: int, limbs: Array, groups: Array) -> int:
    """A NUMERIC field of a wide integer of 10^-decimals (0 to 18)."""
    fraction = (decimals + 3) // 4
    times = 1
    for _ in range(fraction * 4 - decimals):
        times *= 10
    count = split_groups(upper, lower, times, limbs, groups)
    first = 0
    while first < count and groups[first] == 0:
        first += 1
    digits = count - first
    at = put_bare(out, at, 4, 8 + 2 * digits)
    at = put_bare(out, at, 2, digits)
    at = put_bare(out, at, 2, count - fraction - 1 if digits else 0)
    at = put_bare(out, at, 2, 0x4000 if digits and upper < 0 else 0)
    at = put_bare(out, at, 2, decimals)
    for n in range(count - 1, first - 1, -1):
        at = put_bare(out, at, 2, groups[n])
    return at


@kernel
def put_decimal(out: Array, at: int, upper: int, lower: int, limbs: Array, groups: Array) -> int:
    """A wide integer as plain decimal text."""
    count = split_groups(upper, lower, 1, limbs, groups)
    if count == 0:
        out[at] = 48
        return at + 1
    if upper < 0:
        out[at] = 45
        at += 1
    # Constants to divide by: the compiler makes products of them, and a number a tenth as long to write.
    top = groups[count - 1]
    if top >= 1000:
        out[at] = 48 + top // 1000
        at += 1
    if top >= 100:
        out[at] = 48 + top // 100 % 10
        at += 1
    if top >= 10:
        out[at] = 48 + top // 10 % 10
        at += 1
    out[at] = 48 + top % 10
    at += 1
    for n in range(count - 2, -1, -1):
        group = groups[n]
        out[at] = 48 + group // 1000
        out[at + 1] = 48 + group // 100 % 10
        out[at + 2] = 48 + group // 10 % 10
        out[at + 3] = 48 + group % 10
        at += 4
    return at


@inlined
def put_padded(out: Array, at: int, width: int, value: int) -> int:
    """A number that is not negative with leading zeros."""
    for n in range(width - 1, -1, -1):
        out[at + n] = 48 + value % 10
        value //= 10
    return at + width


@kernel
def put_instant(out: Array, at: int, us: int) -> int:
    """`2026-01-05T23:59:59.999999Z` of microseconds since 1970, of the years 1970 to 9999.

    Source of the calendar: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    """
    days, rest = us // 86_400_000_000, us % 86_400_000_000
    shifted = days + 719_468
    era, of_era = shifted // 146_097, shifted % 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    index = (5 * of_year + 2) // 153
    month = index + 3 if index < 10 else index - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    at = put_padded(out, at, 4, year)
    out[at] = 45
    at = put_padded(out, at + 1, 2, month)
    out[at] = 45
    at = put_padded(out, at + 1, 2, of_year - (153 * index + 2) // 5 + 1)
    out[at] = 84
    at = put_padded(out, at + 1, 2, rest // 3_600_000_000)
    out[at] = 58
    at = put_padded(out, at + 1, 2, rest // 60_000_000 % 60)
    out[at] = 58
    at = put_padded(out, at + 1, 2, rest // 1_000_000 % 60)
    out[at] = 46
    at = put_padded(out, at + 1, 6, rest % 1_000_000)
    out[at] = 90
    return at + 1
