"""Rows of Postgres' binary COPY read into arrays, sums over them, and rows of lots and gains written.

What belongs here: the loops between arrays of a day and bytes of COPY. What does not: single fields written (see
`engine.exchange.kernels.copy_fields`), and booking (see `lots`).
"""

from __future__ import annotations

from engine.exchange.kernels.copy_fields import put_bare, put_int, put_numeric, put_text
from engine.exchange.kernels.jit import Array, inlined, kernel, signed, unsigned
from engine.exchange.kernels.wide import add, scaled, subtract

HEADER, NUMBER, AMOUNT = 19, 0, 1
"""Bytes before the first row; a column of integers, and one of numerics."""
_ZERO = unsigned(0)
_TEN, _GROUP = unsigned(10), unsigned(10_000)


@kernel
def count_rows(data: Array) -> int:
    """How many rows a binary COPY has."""
    at, rows = HEADER, 0
    while _big(data, at, 2) != 0xFFFF:
        columns = _big(data, at, 2)
        at += 2
        for _ in range(columns):
            length = _big(data, at, 4)
            at += 4 + (0 if length == 0xFFFF_FFFF else length)
        rows += 1
    return rows


@inlined
def _big(data: Array, at: int, width: int) -> int:
    value = signed(0)
    for n in range(width):
        value = (value << 8) | signed(data[at + n])
    return int(value)


@inlined
def _signed_big(data: Array, at: int, width: int) -> int:
    value = _big(data, at, width)
    if width < 8 and value >= signed(1) << (8 * width - 1):
        value -= signed(1) << (8 * width)
    return int(value)


@kernel
def read_rows(
    data: Array, kinds: Array, scale: Array, decimals: Array, numbers: Array, amounts: Array, negative: Array
) -> int:
    """Read a binary COPY; returns -1, or the row that has an amount finer than its asset or of 2^127 or more.

    Args:
        data: the bytes, uint8.
        kinds: NUMBER or AMOUNT of each column.
        scale: decimals of an amount; -1 - c: those of the asset whose number column c has, which comes before it.
        decimals: of assets by number.
        numbers: out, int64[rows, columns]; null is -1.
        amounts: out, magnitudes in smallest units, uint64[rows, columns, 2]; null is 0.
        negative: out, bool[rows, columns].
    """
    at = HEADER
    for row in range(numbers.shape[0]):
        at += 2
        for column in range(kinds.shape[0]):
            length = _big(data, at, 4)
            at += 4
            if length == 0xFFFF_FFFF:
                numbers[row, column] = -1
                continue
            if kinds[column] == NUMBER:
                numbers[row, column] = _signed_big(data, at, length)
            else:
                places = scale[column]
                if places < 0:
                    places = decimals[numbers[row, -1 - places]]
                low, high, fine = _numeric(data, at, places)
                if not fine:
                    return row
                amounts[row, column, 0] = low
                amounts[row, column, 1] = high
                negative[row, column] = _big(data, at + 4, 2) == 0x4000
            at += length
    return -1


@kernel
def _numeric(data: Array, at: int, places: int) -> tuple[unsigned, unsigned, bool]:
    """The magnitude of a numeric in units of 10^-places, and whether it is a whole number of them below 2^127."""
    digits, weight = _big(data, at, 2), _signed_big(data, at + 2, 2)
    low, high = _ZERO, _ZERO
    beyond = False
    for n in range(digits):
        digit = _big(data, at + 8 + 2 * n, 2)
        spare = 4 * (weight - n) + places
        if spare >= 0:
            low, high, over = scaled((low, high), _GROUP)
            low, high = add((low, high), (unsigned(digit), _ZERO))
            beyond = beyond or over
            continue
        # The unit lies within this group of four digits.
        part = signed(1)
        for _ in range(min(-spare, 4)):
            part *= 10
        if digit % part != 0:
            return low, high, False
        for _ in range(4 + spare):
            low, high, over = scaled((low, high), _TEN)
            beyond = beyond or over
        low, high = add((low, high), (unsigned(digit // part), _ZERO))
    last = 4 * (weight - digits + 1) + places
    if digits > 0 and last > 0:
        for _ in range(last):
            low, high, over = scaled((low, high), _TEN)
            beyond = beyond or over
    return low, high, not beyond and (high >> unsigned(63)) == _ZERO


@kernel
def add_up(cells: Array, amounts: Array, sums: Array) -> None:
    """Add each amount to the sum of its cell, modulo 2^128; cell -1 is none."""
    for n in range(cells.shape[0]):
        cell = cells[n]
        if cell >= 0:
            low, high = add((sums[cell, 0], sums[cell, 1]), (amounts[n, 0], amounts[n, 1]))
            sums[cell, 0] = low
            sums[cell, 1] = high


@kernel
def place_in_order(position: Array, starts: Array, order: Array) -> None:
    """Where each event goes when events are laid out position by position, keeping their order.

    Args:
        position: of each event, int64.
        starts: in: where the events of a position begin; out: where they end.
        order: out, the events in their new order.
    """
    for n in range(position.shape[0]):
        to = starts[position[n]]
        order[to] = n
        starts[position[n]] = to + 1


@kernel
def put_lots(
    out: Array, day: int, version: int, plain: Array, amounts: Array, symbols: Array, texts: Array, decimals: Array,
    currency_decimals: int, limbs: Array, groups: Array,
) -> int:  # fmt: skip
    """Rows of `positions.lots`; returns the bytes written.

    Args:
        out: the bytes.
        day: close date in days since 2000.
        version: of the close date.
        plain: user, asset, lot_seq, lot_no, acquired_on in days since 2000; int64[rows, 5].
        amounts: acquired quantity and cost, quantity, cost; uint64[rows, 4, 2].
        symbols: where the name of an asset begins in `texts`, by number, and behind the last the end.
        texts: names of assets.
        decimals: of assets by number.
        currency_decimals: of the reporting currency.
        limbs: scratch of `put_numeric`.
        groups: alike.
    """
    at = 0
    for n in range(plain.shape[0]):
        asset = plain[n, 1]
        at = put_bare(out, at, 2, 11)
        at = put_int(out, at, 4, day)
        at = put_int(out, at, 4, version)
        at = put_int(out, at, 8, plain[n, 0])
        at = put_text(out, at, texts, symbols[asset], symbols[asset + 1])
        at = put_int(out, at, 8, plain[n, 2])
        at = put_int(out, at, 4, plain[n, 3])
        at = put_int(out, at, 4, plain[n, 4])
        for column in range(4):
            places = decimals[asset] if column % 2 == 0 else currency_decimals
            at = put_numeric(out, at, signed(amounts[n, column, 1]), amounts[n, column, 0], places, limbs, groups)
    return at


@kernel
def put_gains(
    out: Array, day: int, version: int, users: Array, assets: Array, amounts: Array, is_value: Array, symbols: Array,
    texts: Array, decimals: Array, currency_decimals: int, limbs: Array, groups: Array,
) -> int:  # fmt: skip
    """Rows of `positions.realized_pnl`; returns the bytes written.

    `amounts` are two's complement, uint64[rows, columns, 2]; `is_value` says which columns are in the reporting
    currency; the others are as those of `put_lots`.
    """
    at = 0
    columns = amounts.shape[1]
    for n in range(users.shape[0]):
        asset = assets[n]
        at = put_bare(out, at, 2, 4 + columns)
        at = put_int(out, at, 4, day)
        at = put_int(out, at, 4, version)
        at = put_int(out, at, 8, users[n])
        at = put_text(out, at, texts, symbols[asset], symbols[asset + 1])
        for column in range(columns):
            places = currency_decimals if is_value[column] else decimals[asset]
            at = put_numeric(out, at, signed(amounts[n, column, 1]), amounts[n, column, 0], places, limbs, groups)
    return at


@kernel
def negate(amounts: Array, which: Array) -> None:
    """Two's complement of the amounts that are negative."""
    for n in range(which.shape[0]):
        if which[n]:
            low, high = subtract((_ZERO, _ZERO), (amounts[n, 0], amounts[n, 1]))
            amounts[n, 0] = low
            amounts[n, 1] = high
