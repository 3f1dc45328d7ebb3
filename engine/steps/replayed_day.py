"""A close date as the order journal alone tells it.

What belongs here: the walk of a journal to a cut-off, and what it leaves of the date: balances, hashes, fees, trades.
What does not: comparing it with what was sealed (see `replay_audit`), and the matching itself (see `engine.exchange`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from engine.clock import day_number
from engine.errors import InputError
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import CutOff, Trade
from engine.exchange.journal import JOURNAL_NAME, JournalReader
from engine.exchange.postings import journal_of

Balances = dict[tuple[str, str], int]
"""Smallest units by account and asset."""
Charges = dict[tuple[str, str, str], int]
"""Fees in smallest units by account, asset and role."""


@dataclass
class Replayed:
    """What the order journal says up to a cut-off.

    Attributes:
        engine: the state right after the cut-off.
        balances: what customers hold, and what engine events moved on house accounts, since the beginning.
        today: what engine events of the date moved on house accounts.
        hashes: row hashes of the date's journals.
        fees: charged on the date, by account, asset and role.
        last_trades: of each market by exchange time before the cut-off.
    """

    engine: ExchangeEngine
    balances: Balances
    today: Balances
    hashes: list[bytes]
    fees: Charges
    last_trades: dict[int, Trade]
    barrier_seq: int
    cutoff_us: int


def replay_to(path: Path, day: date, cutoff_us: int) -> Replayed:
    """Walk a journal from its first record to the cut-off of a date; snapshots beside it are not used.

    Args:
        path: the journal, or the directory that it lies in.
        day: close date.
        cutoff_us: when it was sealed to end, for the last trades before it.

    Raises:
        InputError: there is no journal, or it does not cut the date off.
        JournalCorruptError: a record does not hold.
    """
    file = path / JOURNAL_NAME if path.is_dir() else path
    wanted = day_number(day)
    balances: defaultdict[tuple[str, str], int] = defaultdict(int)
    today: defaultdict[tuple[str, str], int] = defaultdict(int)
    fees: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    hashes: list[bytes] = []
    last: dict[int, Trade] = {}
    with JournalReader(file) as reader:
        engine = ExchangeEngine(reader.first_day)
        for record in reader.records():
            for event in engine.apply(record):
                journal = journal_of(event, engine.registry)
                if journal is not None:
                    ours = journal.close_date == day
                    for leg in journal.legs:
                        balances[leg.account, leg.asset] += leg.units
                        if ours:
                            today[leg.account, leg.asset] += leg.units
                    if ours:
                        hashes.append(journal.row_hash())
                if isinstance(event, Trade):
                    if event.effective_us < cutoff_us:
                        last[event.market] = max(last.get(event.market, event), event, key=_time_of)
                    if event.close_day == wanted:
                        _charge(fees, event, engine)
                if isinstance(event, CutOff) and event.close_day == wanted:
                    engine.check_conservation()
                    return Replayed(
                        engine, dict(balances), dict(today), hashes, dict(fees), last, record.seq, record.ts_us
                    )
    raise InputError(f"journal {file}: {day} has not been cut off", next_step="take the journal of the whole day")


def _time_of(trade: Trade) -> tuple[int, int, int]:
    return trade.effective_us, trade.engine_seq, trade.fill_index


def _charge(fees: defaultdict[tuple[str, str, str], int], trade: Trade, engine: ExchangeEngine) -> None:
    registry = engine.registry
    quote = registry.assets[registry.markets[trade.market].quote].symbol
    for account, units, role in (
        (trade.maker_account, trade.maker_fee_units, "maker"),
        (trade.taker_account, trade.taker_fee_units, "taker"),
    ):
        if units:
            fees[registry.accounts[account].name, quote, role] += units
