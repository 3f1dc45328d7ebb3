"""Rows of text as arrays: `account TAB asset number TAB smallest units LF`, sorted by account.

What belongs here: reading what the database sends for a day's trees, millions of lines at a time.
What does not: asking for it (see `engine.store.trees`).
"""

from __future__ import annotations

from typing import Any

from engine.exchange.kernels.jit import Array, inlined, kernel, multiply_high, unsigned

TAB, LINE_END = 9, 10
BAD_NAME, BAD_NUMBER, OUT_OF_ORDER, TOO_LARGE, TOO_MANY = -1, -2, -3, -4, -5


@inlined
def _name_end(text: Array, start: int) -> int:
    """Where a name ends at its tab, or BAD_NAME."""
    at = start
    while text[at] != TAB:
        character = text[at]
        if not (97 <= character <= 122 or 48 <= character <= 57 or character == 45) or at - start >= 64:
            return BAD_NAME
        at += 1
    return at if at > start else BAD_NAME


@inlined
def _compared(text: Array, start: int, size: int, names: Array, lengths: Array, row: int) -> int:
    """1, 0 or -1 as a name in the text comes after, is, or comes before that of a row."""
    there = int(lengths[row])
    for i in range(min(size, there)):
        if text[start + i] != names[row, i]:
            return 1 if text[start + i] > names[row, i] else -1
    return int(size > there) - int(size < there)


@inlined
def _small_number(text: Array, start: int) -> tuple[int, int]:
    """A number of at most nine digits before a tab, and where the tab is, or BAD_NUMBER."""
    at, number = start, 0
    while 48 <= text[at] <= 57 and at - start < 9:
        number = number * 10 + int(text[at]) - 48
        at += 1
    return number, (at if at > start and text[at] == TAB else BAD_NUMBER)


@inlined
def _units(text: Array, start: int) -> tuple[Any, Any, int]:
    """An amount before a line end as two words, and where the line ends, or why it is none."""
    at = start
    low, high = unsigned(0), unsigned(0)
    while 48 <= text[at] <= 57 and at - start < 40:
        high = high * unsigned(10) + multiply_high(low, unsigned(10))
        low = low * unsigned(10)
        digit = unsigned(text[at]) - unsigned(48)
        low += digit
        if low < digit:
            high += unsigned(1)
        at += 1
    if at == start or (at - start < 40 and text[at] != LINE_END):
        return low, high, BAD_NUMBER
    # 39 digits stay below 2^130: the word above would wrap only from 10^39 on, so the first of 39 is looked at too.
    if at - start > 39 or (at - start == 39 and text[start] > 49) or (high >> unsigned(63)) != unsigned(0):
        return low, high, TOO_LARGE
    return low, high, at


@kernel
def read_rows(
    text: Array, length: int, names: Array, lengths: Array, owners: Array, assets: Array, amounts: Array, state: Array
) -> int:
    """Read whole lines into arrays.

    Args:
        text: bytes.
        length: how many of them count; the last is a line end.
        names: [accounts, 64] zero bytes, written.
        lengths: of the names, written.
        owners: account row of each line, written.
        assets: asset number of each line, written.
        amounts: [lines, 2] words, low one first, written.
        state: where a bad line begins, and how many accounts there were; written.

    Returns:
        Lines read, or why the line at `state[0]` can't be: one of this module's negative numbers.
    """
    at, line, accounts = 0, 0, 0
    while at < length:
        state[0], state[1] = at, accounts
        if line >= len(owners):
            return TOO_MANY
        end = _name_end(text, at)
        if end < 0:
            return end
        order = 1 if accounts == 0 else _compared(text, at, end - at, names, lengths, accounts - 1)
        number, after = _small_number(text, end + 1)
        if after < 0:
            return after
        if order < 0 or (order == 0 and number <= assets[line - 1]):
            return OUT_OF_ORDER
        if order > 0:
            for i in range(end - at):
                names[accounts, i] = text[at + i]
            lengths[accounts] = end - at
            accounts += 1
        low, high, stop = _units(text, after + 1)
        if stop < 0:
            return stop
        owners[line], assets[line] = accounts - 1, number
        amounts[line, 0], amounts[line, 1] = low, high
        line += 1
        at = stop + 1
    state[0], state[1] = at, accounts
    return line
