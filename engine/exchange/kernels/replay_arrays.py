"""What the replay kernel works on: its arrays, their columns, and the numbers that it shares with the online engine.

What belongs here: names. What does not: what happens to them (see `replay`), and who fills them (see
`engine.exchange.replay_world`).
"""

from __future__ import annotations

from typing import NamedTuple

from engine.exchange.kernels.jit import Array

# A record's 32-bit words, as `engine.exchange.codec` lays them out; 64-bit fields take two.
KIND_BYTE, SIDE_BYTE, TIF_BYTE = 24, 25, 26
W_TIME, W_MARKET, W_ACCOUNT, W_ORDER, W_PRICE, W_QUANTITY, W_RESERVE, W_TEXT, W_CRC = 2, 7, 11, 13, 15, 17, 19, 23, 39
TEXT_WORDS = 16

QUANTITY, ORDER_ID, PRICE, ACCOUNT, NEXT, PREVIOUS, RATE, TICK = range(8)
SIDE, MARKET, MINE_NEXT, MINE_PREVIOUS, POST_ONLY, RESERVE = range(8, 14)
SLOT_COLUMNS = 16
"""Columns of a slot: what a fill needs in the first cache line, what leaving needs in the second."""

BASE, QUOTE, PER_TICK_LOT, BAND, SLIPPAGE, MAX_AGE, LEAST_LOTS, MOST_LOTS = range(8)
LAST_PRICE, VENUE_PRICE, VENUE_TIME, BEST_BID, BEST_ASK, LEVELS, TICKS, WORDS, ROWS, MOST_TICKS = range(8, 18)
MARKET_COLUMNS = 24
"""Columns of a market. Bases and quotes are dense; bests are ticks, -1 and `TICKS` for none."""

PER_LOT_LOW, PER_LOT_HIGH, NOTIONAL_LOW, NOTIONAL_HIGH = range(4)
"""Columns of a market's wide numbers."""

MAY_TRADE, MAKER_RATE, TAKER_RATE, FIRST_ORDER, TIER = range(5)
"""Columns of an account."""

AVAILABLE, LOCKED = 0, 2
"""Columns of a balance; each place takes two words, as in `engine.exchange.state`."""

FREE, USED, TRADES, GENESIS, FRESH_FROM = range(5)
"""Counters: first free slot, slots ever used, trades, whether it is genesis, first record whose reference counts."""

(
    T_SEQ,
    T_PRICE,
    T_QUANTITY,
    T_MAKER_ORDER,
    T_TAKER_ORDER,
    T_MAKER,
    T_TAKER,
    T_MARKET,
    T_SIDE,
    T_MAKER_RATE,
    T_TAKER_RATE,
    T_MAKER_FEE,
    T_MAKER_FEE_HIGH,
    T_TAKER_FEE,
    T_TAKER_FEE_HIGH,
) = range(15)
TRADE_COLUMNS = 16
"""Columns of a trade; accounts and markets are dense, fees two's complement. Its id is its row + 1."""


class World(NamedTuple):
    """Everything that the kernel reads and writes.

    Attributes:
        raw: [records, 160] bytes of the journal.
        words: [records, 40] the same as 32-bit words.
        ticks: [records] dense price of each new or amending record in its market.
        reasons: [records] `RejectReason` of each, 0 for none.
        counters: see above.
        market_of: [65,536] dense market of a number, -1 for none.
        markets: [markets, MARKET_COLUMNS].
        wides: [markets, 4] unsigned.
        offsets: [markets, rows] of each bitmap.
        levels: [ticks of all markets, 2] first and last slot.
        bits: bitmaps of all markets.
        account_keys: open addressing over account numbers: the number.
        account_values: dense account + 1, 0 for an empty place.
        accounts: [accounts, 8].
        balances: [accounts x assets, 8] unsigned, a cache line each.
        fees: [assets, 2] two's complement.
        slots: [orders + 1, SLOT_COLUMNS].
        slot_of: [records + 1] slot of an order id, which is a sequence.
        references: open addressing over (account, client reference): record + 1.
        trades: [most trades, TRADE_COLUMNS].
    """

    raw: Array
    words: Array
    ticks: Array
    reasons: Array
    counters: Array
    market_of: Array
    markets: Array
    wides: Array
    offsets: Array
    levels: Array
    bits: Array
    account_keys: Array
    account_values: Array
    accounts: Array
    balances: Array
    fees: Array
    slots: Array
    slot_of: Array
    references: Array
    trades: Array
