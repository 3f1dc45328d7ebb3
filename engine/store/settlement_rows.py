"""The rows of settled events: trades, journals and legs as binary COPY takes them, one by one.

What belongs here: the columns of the three tables and how an event fills them; what the arrays' rows must equal.
What does not: a batch of trades at once (see `settlement_arrays`), and the format (see `copy_binary`).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from engine.clock import day_number
from engine.errors import ConfigError
from engine.exchange.events import Side, Trade
from engine.exchange.state import Market, Registry
from engine.ledger.journal import Journal
from engine.store.copy_binary import data, date4, int4, int8, numeric, row, text, timestamptz

TRADE_COLUMNS = (
    "trade_id, posting_no, engine_seq, fill_index, close_date, sequenced_at, effective_at, market, price, quantity,"
    " quote_quantity, taker_side, maker_id, taker_id, maker_order_id, taker_order_id, maker_fee, taker_fee,"
    " maker_rate_ppm, taker_rate_ppm"
)
JOURNAL_COLUMNS = (
    "posting_no, kind, reference_type, reference_id, engine_seq, effective_at, close_date, origin, epoch, actor,"
    " reason, row_hash"
)
LEG_COLUMNS = "posting_no, close_date, account_id, asset, amount"


def tick_of(market: Market, registry: Registry) -> int:
    """The price of one tick of a market in units of 10^-18.

    Raises:
        ConfigError: it has more than 18 decimals.
    """
    base, quote = registry.assets[market.base], registry.assets[market.quote]
    return tick_size(
        market.quote_units_per_tick_lot, quote.decimals, market.base_units_per_lot, base.decimals, market.symbol
    )


def tick_size(quote_per_tick_lot: int, quote_decimals: int, base_per_lot: int, base_decimals: int, market: str) -> int:
    """The price of one tick in units of 10^-18.

    Raises:
        ConfigError: a tick's price has more than 18 decimals.
    """
    tick = Fraction(quote_per_tick_lot * 10**base_decimals, base_per_lot * 10**quote_decimals) * 10**18
    if tick.denominator != 1:
        raise ConfigError(
            f"market {market}: the price of one tick has more than 18 decimals",
            rule="prices are NUMERIC(38,18)",
            next_step="configure a tick that is a decimal fraction",
        )
    return tick.numerator


def trade_row(trade: Trade, posting_no: int, registry: Registry) -> bytes:
    """A row of `exchange.trades`."""
    market = registry.markets[trade.market]
    base, quote = registry.assets[market.base].decimals, registry.assets[market.quote].decimals
    return row(
        (
            int8(trade.trade_id),
            int8(posting_no),
            int8(trade.engine_seq),
            int4(trade.fill_index),
            date4(trade.close_day),
            timestamptz(trade.sequenced_us),
            timestamptz(trade.effective_us),
            text(market.symbol),
            numeric(trade.price_ticks * tick_of(market, registry), 18),
            numeric(trade.base_units, base),
            numeric(trade.quote_units, quote),
            text("buy" if trade.taker_side == Side.BUY else "sell"),
            int8(trade.maker_account),
            int8(trade.taker_account),
            int8(trade.maker_order_id),
            int8(trade.taker_order_id),
            numeric(trade.maker_fee_units, quote),
            numeric(trade.taker_fee_units, quote),
            int4(trade.maker_rate_ppm),
            int4(trade.taker_rate_ppm),
        )
    )


def journal_row(journal: Journal, posting_no: int, actor: str) -> bytes:
    """A row of `ledger.journals`, not of the close."""
    return row(
        (
            int8(posting_no),
            text(journal.kind),
            text(journal.reference_type),
            text(journal.reference_id),
            int8(journal.engine_seq),
            timestamptz(journal.effective_us),
            date4(day_number(journal.close_date)),
            text(journal.origin),
            int8(None),
            text(actor),
            text(journal.reason),
            data(journal.row_hash()),
        )
    )


def leg_rows(
    journal: Journal, posting_no: int, known: Mapping[tuple[str, str], int], decimals: Mapping[str, int]
) -> bytes:
    """The rows of `ledger.ledger_entries` of one journal."""
    return b"".join(
        row(
            (
                int8(posting_no),
                date4(day_number(journal.close_date)),
                int8(known[leg.account, leg.asset]),
                text(leg.asset),
                numeric(leg.units, decimals[leg.asset]),
            )
        )
        for leg in journal.legs
    )
