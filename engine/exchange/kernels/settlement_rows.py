"""Rows of settled trades, their journals and their legs, as binary COPY takes them, and the text that journals hash.

What belongs here: the four loops over a batch of trades. What does not: single fields (see `copy_fields`), and the same
rows in plain Python, which say what these must be (see `engine.store.settlement_rows`).

Columns of `plain` (int64) and of `upper`, `lower` (wide integers) are named below; `place` gives per trade the rows of
its maker, its taker, and its market in `names` and `markets`.
"""

from __future__ import annotations

from engine.exchange.kernels.copy_fields import (
    is_opposite,
    put_bare,
    put_bytes,
    put_decimal,
    put_instant,
    put_int,
    put_numeric,
    put_text,
)
from engine.exchange.kernels.jit import Array, kernel, multiply_high, signed, unsigned

TRADE_ID, POSTING, SEQ, FILL, DAY, SEQUENCED, EFFECTIVE, SIDE = 0, 1, 2, 3, 4, 5, 6, 7
MAKER, TAKER, MAKER_ORDER, TAKER_ORDER, MAKER_RATE, TAKER_RATE, MARKET = 8, 9, 10, 11, 12, 13, 14
PRICE, BASE, QUOTE, MAKER_FEE, TAKER_FEE = 0, 1, 2, 3, 4
AT_MAKER, AT_TAKER, AT_MARKET = 0, 1, 2
SYMBOL, BASE_ASSET, QUOTE_ASSET, BASE_DECIMALS, QUOTE_DECIMALS, BASE_FIRST = 0, 1, 2, 3, 4, 5
"""Of `markets`: places of three names, two scales, and whether the base sorts before the quote."""
BUY, SELL, TRADE, ENGINE, FILL_REASON, ACTOR, CLEARING = 0, 1, 2, 3, 4, 5, 6
"""The first names of `names`."""
EPOCH_DAYS, EPOCH_US = 10_957, 946_684_800_000_000
"""From 1970 to 2000, which Postgres counts from."""
LEGS, LONGEST_NUMBER = 8, 40
SIGN = 8
"""Where in a NUMERIC field with its length the sign stands."""


@kernel
def put_trades(
    out: Array, plain: Array, upper: Array, lower: Array, place: Array, markets: Array, texts: Array, names: Array,
    limbs: Array, groups: Array,
) -> int:  # fmt: skip
    """Rows of `exchange.trades`; returns the bytes written."""
    at = 0
    for t in range(plain.shape[0]):
        market = place[t, AT_MARKET]
        symbol = markets[market, SYMBOL]
        base, quote = markets[market, BASE_DECIMALS], markets[market, QUOTE_DECIMALS]
        at = put_bare(out, at, 2, 20)
        at = put_int(out, at, 8, plain[t, TRADE_ID])
        at = put_int(out, at, 8, plain[t, POSTING])
        at = put_int(out, at, 8, plain[t, SEQ])
        at = put_int(out, at, 4, plain[t, FILL])
        at = put_int(out, at, 4, plain[t, DAY] - EPOCH_DAYS)
        at = put_int(out, at, 8, plain[t, SEQUENCED] - EPOCH_US)
        at = put_int(out, at, 8, plain[t, EFFECTIVE] - EPOCH_US)
        at = put_text(out, at, texts, names[symbol], names[symbol + 1])
        at = put_numeric(out, at, upper[t, PRICE], lower[t, PRICE], 18, limbs, groups)
        at = put_numeric(out, at, upper[t, BASE], lower[t, BASE], base, limbs, groups)
        at = put_numeric(out, at, upper[t, QUOTE], lower[t, QUOTE], quote, limbs, groups)
        at = put_text(out, at, texts, names[plain[t, SIDE]], names[plain[t, SIDE] + 1])
        for column in range(MAKER, TAKER_ORDER + 1):
            at = put_int(out, at, 8, plain[t, column])
        at = put_numeric(out, at, upper[t, MAKER_FEE], lower[t, MAKER_FEE], quote, limbs, groups)
        at = put_numeric(out, at, upper[t, TAKER_FEE], lower[t, TAKER_FEE], quote, limbs, groups)
        at = put_int(out, at, 4, plain[t, MAKER_RATE])
        at = put_int(out, at, 4, plain[t, TAKER_RATE])
    return at


@kernel
def put_journals(
    out: Array, plain: Array, hashes: Array, texts: Array, names: Array, limbs: Array, groups: Array
) -> int:
    """Rows of `ledger.journals`; `hashes` is uint8[trades, 32]. Returns the bytes written."""
    at = 0
    for t in range(plain.shape[0]):
        at = put_bare(out, at, 2, 12)
        at = put_int(out, at, 8, plain[t, POSTING])
        at = put_text(out, at, texts, names[TRADE], names[TRADE + 1])
        at = put_text(out, at, texts, names[TRADE], names[TRADE + 1])
        length_at = at
        at = put_decimal(out, at + 4, plain[t, TRADE_ID] >> 63, unsigned(plain[t, TRADE_ID]), limbs, groups)
        put_bare(out, length_at, 4, at - length_at - 4)
        at = put_int(out, at, 8, plain[t, SEQ])
        at = put_int(out, at, 8, plain[t, EFFECTIVE] - EPOCH_US)
        at = put_int(out, at, 4, plain[t, DAY] - EPOCH_DAYS)
        at = put_text(out, at, texts, names[ENGINE], names[ENGINE + 1])
        at = put_bare(out, at, 4, -1)
        at = put_text(out, at, texts, names[ACTOR], names[ACTOR + 1])
        at = put_text(out, at, texts, names[FILL_REASON], names[FILL_REASON + 1])
        at = put_bare(out, at, 4, 32)
        at = put_bytes(out, at, hashes[t], 0, 32)
    return at


@kernel
def make_prices(upper: Array, lower: Array, places: Array, ticks: Array) -> bool:
    """Multiply prices in ticks by their market's tick; returns whether all fit, else some may be left as they were.

    Args:
        upper: of wide integers, whose `PRICE` is in ticks.
        lower: the same.
        places: of each trade's market in `ticks` (int64).
        ticks: the price of a tick (uint64).
    """
    for t in range(upper.shape[0]):
        if upper[t, PRICE] != 0:
            return False
        tick = ticks[places[t]]
        high = signed(multiply_high(lower[t, PRICE], tick))
        if high < 0:
            return False
        lower[t, PRICE] *= tick
        upper[t, PRICE] = high
    return True


@kernel
def make_legs(
    plain: Array, upper: Array, lower: Array, place: Array, markets: Array,
    parties: Array, assets: Array, leg_upper: Array, leg_lower: Array, how_many: Array,
) -> None:  # fmt: skip
    """The legs of each trade in the order of `engine.exchange.postings`.

    Filled are, by trade and leg, `parties` and `assets` (names; int64), `leg_upper` (int64) and `leg_lower` (uint64),
    and `how_many` legs each trade has (int64).
    """
    for t in range(plain.shape[0]):
        market = place[t, AT_MARKET]
        base, quote = markets[market, BASE_ASSET], markets[market, QUOTE_ASSET]
        maker, taker = place[t, AT_MAKER], place[t, AT_TAKER]
        buyer = taker if plain[t, SIDE] == BUY else maker
        seller = maker if plain[t, SIDE] == BUY else taker
        count = 0
        for k in range(LEGS):
            # Each amount occurs once on either side: who gives, who receives, in which order.
            n = k if markets[market, BASE_FIRST] else (k + 2) % LEGS
            which = QUOTE
            party, asset, negative = buyer, quote, True
            if n == 0:
                which, asset, negative = BASE, base, False
            elif n == 1:
                which, party, asset = BASE, seller, base
            elif n == 3:
                party, negative = seller, False
            elif n >= 4:
                which = MAKER_FEE if n < 6 else TAKER_FEE
                if upper[t, which] == 0 and lower[t, which] == unsigned(0):
                    continue
                negative = n % 2 == 0
                party = CLEARING
                if negative:
                    party = maker if n < 6 else taker
            high, low = upper[t, which], lower[t, which]
            if negative:
                low = unsigned(~low) + unsigned(1)
                high = ~high
                if low == unsigned(0):
                    high += signed(1)
            parties[t, count], assets[t, count] = party, asset
            leg_upper[t, count], leg_lower[t, count] = high, low
            count += 1
        how_many[t] = count


@kernel
def put_legs(
    out: Array, plain: Array, account_ids: Array, assets: Array, leg_upper: Array, leg_lower: Array, how_many: Array,
    decimals: Array, texts: Array, names: Array, limbs: Array, groups: Array,
) -> int:  # fmt: skip
    """Rows of `ledger.ledger_entries`; `decimals` is by name of asset. Returns the bytes written."""
    at = 0
    for t in range(plain.shape[0]):
        number = 0
        for n in range(how_many[t]):
            asset = assets[t, n]
            at = put_bare(out, at, 2, 5)
            at = put_int(out, at, 8, plain[t, POSTING])
            at = put_int(out, at, 4, plain[t, DAY] - EPOCH_DAYS)
            at = put_int(out, at, 8, account_ids[t, n])
            at = put_text(out, at, texts, names[asset], names[asset + 1])
            before, number = number, at
            if (
                n % 2
                and asset == assets[t, n - 1]
                and is_opposite(leg_upper[t, n], leg_lower[t, n], leg_upper[t, n - 1], leg_lower[t, n - 1])
            ):
                # Who gives and who receives: the same digits, the other sign.
                at = put_bytes(out, at, out, before, before + 12 + 2 * (out[before + 4] * 256 + out[before + 5]))
                out[number + SIGN] ^= 0x40
            else:
                at = put_numeric(out, at, leg_upper[t, n], leg_lower[t, n], decimals[asset], limbs, groups)
    return at


@kernel
def put_canonical(
    out: Array, ends: Array, plain: Array, parties: Array, assets: Array, leg_upper: Array, leg_lower: Array,
    how_many: Array, texts: Array, names: Array, lines: Array, starts: Array, order: Array, limbs: Array, groups: Array,
) -> None:  # fmt: skip
    """The canonical text of each trade's journal, whose SHA-256 is its row hash.

    Filled are `out`, the texts one after the other, and `ends`, where each ends (int64). Scratch are `lines` for the
    legs of one journal, `starts` (int64[LEGS + 1]) and `order` (int64[LEGS]).
    """
    at = 0
    for t in range(plain.shape[0]):
        for _ in range(2):
            at = put_bytes(out, at, texts, names[TRADE], names[TRADE + 1])
            out[at] = 9
            at += 1
        for column in (TRADE_ID, SEQ):
            at = put_decimal(out, at, plain[t, column] >> 63, unsigned(plain[t, column]), limbs, groups)
            out[at] = 9
            at += 1
        at = put_instant(out, at, plain[t, EFFECTIVE])
        out[at] = 9
        at = put_bytes(out, at + 1, texts, names[ENGINE], names[ENGINE + 1])
        starts[0], digits = 0, 0
        for n in range(how_many[t]):
            party, asset, to = parties[t, n], assets[t, n], starts[n]
            to = put_bytes(lines, to, texts, names[party], names[party + 1])
            lines[to] = 9
            to = put_bytes(lines, to + 1, texts, names[asset], names[asset + 1])
            lines[to] = 9
            to += 1
            before, digits = digits, to
            if n % 2 and is_opposite(leg_upper[t, n], leg_lower[t, n], leg_upper[t, n - 1], leg_lower[t, n - 1]):
                # Who gives and who receives: the same digits, the other sign.
                if leg_upper[t, n] < 0:
                    lines[to] = 45
                    to += 1
                else:
                    before += 1
                to = put_bytes(lines, to, lines, before, starts[n])
            else:
                to = put_decimal(lines, to, leg_upper[t, n], leg_lower[t, n], limbs, groups)
            starts[n + 1] = to
            place = n
            while place > 0 and _before(lines, starts, n, order[place - 1]):
                order[place] = order[place - 1]
                place -= 1
            order[place] = n
        for n in range(how_many[t]):
            out[at] = 9
            at = put_bytes(out, at + 1, lines, starts[order[n]], starts[order[n] + 1])
        out[at] = 10
        at += 1
        ends[t] = at


@kernel
def _before(lines: Array, starts: Array, one: int, other: int) -> bool:
    """Whether a line sorts before another, byte by byte."""
    a, b = starts[one], starts[other]
    while a < starts[one + 1] and b < starts[other + 1]:
        if lines[a] != lines[b]:
            return bool(lines[a] < lines[b])
        a += 1
        b += 1
    return bool(starts[one + 1] - starts[one] < starts[other + 1] - starts[other])
