"""Step `wallet_balances`: what the stored readings say that every configured wallet held at the cut-off.

What belongs here: choosing the reading, its lines of the day, and proving that they explain the change of the balance.
What does not: fetching (a collector does, see `engine.gateways`), and comparing with the ledger (`ledger_vs_custody`).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from engine.canonical import sha256_jcs
from engine.errors import UncheckedError
from engine.gateways.bitgo import Line
from engine.gateways.custody_readings import WalletAt, wallet_at
from engine.money import from_units, storable, text_of, to_units
from engine.recon.sources import WalletSource, wallets_of
from engine.steps.context import Inputs, Step, StepContext, StepOutput
from engine.store import days, readings
from engine.store.capture import decimals_of
from engine.store.connect import Connection
from engine.store.days import Day

LOOK_BACK = timedelta(days=7)
"""How long after its time a line may still be confirmed, or taken back."""


def subject_of(source: WalletSource, context: StepContext) -> str:
    """The subject that the collector stores a wallet's reading of a date under."""
    return f"{source.subject}@{context.close_date}"


def inputs(connection: Connection, context: StepContext, day: Day) -> Inputs:
    """The policy's wallets and the newest reading of each."""
    found = {}
    for source in wallets_of(context.policy.custody_wallets):
        reading = readings.newest(connection, source.source, subject_of(source, context))
        found[source.subject] = reading.sha256 if reading else None
    return {"policy_sha256": context.policy.sha256, "readings": found, "version": day.version}


def write(connection: Connection, context: StepContext, day: Day) -> StepOutput:
    """Write balances and lines; a wallet that cannot be read has a row that says why, and its gates are unknown."""
    readings.replace(connection, context.close_date, context.epoch)
    shown, unread = [], []
    for source in wallets_of(context.policy.custody_wallets):
        try:
            balance, lines = _wallet(connection, context, day, source)
            shown.append({"wallet": source.subject, "kind": source.kind, "balance": text_of(balance), "lines": lines})
        except UncheckedError as error:
            readings.put_unread(connection, context.close_date, day.version, "custody", source.subject, error.what)
            unread.append({"wallet": source.subject, "why": error.what})
    facts = {"wallets": shown, "unread": unread}
    return StepOutput(len(shown), sha256_jcs(facts), facts)


def _wallet(connection: Connection, context: StepContext, day: Day, source: WalletSource) -> tuple[Decimal, int]:
    assert day.cutoff_at is not None
    reading = readings.newest(connection, source.source, subject_of(source, context))
    if reading is None:
        raise UncheckedError(f"{source.subject} has no stored reading for {context.close_date}")
    if source.asset not in decimals_of(connection):
        raise UncheckedError(f"{source.subject} is of an asset that the books do not know")
    before = days.read(connection, context.close_date - timedelta(days=1))
    opening = before.cutoff_at if before and before.cutoff_at else day.cutoff_at - timedelta(days=1)
    since = opening - LOOK_BACK
    at = wallet_at(reading.raw, source, since, day.cutoff_at)
    known = readings.known_transfers(connection, context.close_date, source.wallet, source.asset, since.date())
    first = before is None or before.genesis
    lines = _day_lines(source, at, known, opening if first else since, since)
    for units in (at.units, *(line.units for line in (*at.confirmed, *at.pending))):
        storable(units, source.decimals, source.subject)
    balance = from_units(at.units, source.decimals)
    held = readings.wallet_before(connection, context.close_date, source.wallet, source.asset)
    explained = sum(_units(source, line.amount) - _units(source, line.fee) for line in lines if line.confirmed)
    if held is not None and _units(source, held) + explained != at.units:
        raise UncheckedError(
            f"{source.subject} held {text_of(held)}, its lines moved {text_of(from_units(explained, source.decimals))}"
            f" and it holds {text_of(balance)}: the transfer list does not explain the balance"
        )
    if held is None and at.whole:
        every = sum(line.units for line in at.confirmed)
        if every != at.units:
            raise UncheckedError(
                f"{source.subject} holds {text_of(balance)} and the lines of its whole list come to"
                f" {text_of(from_units(every, source.decimals))}: a page of the list is missing"
            )
    readings.put_wallet(
        connection, context.close_date, day.version, source.wallet, source.asset, balance, reading, lines
    )
    return balance, len(lines)


def _day_lines(
    source: WalletSource, at: WalletAt, known: dict[str, readings.Transfer], fresh_since: datetime, since: datetime
) -> list[readings.Transfer]:
    """Lines that no earlier date took, those taken back since, and those still pending."""
    there = {line.transfer for line in at.moved}
    fresh = [_stored(source, x, True) for x in at.moved if x.transfer not in known and x.at >= fresh_since]
    gone = [
        replace(line, transfer=f"{name}{readings.REMOVED}", amount=-line.amount, fee=-line.fee)
        for name, line in known.items()
        if name not in there and line.at >= since
    ]
    return fresh + gone + [_stored(source, line, False) for line in at.pending]


def _stored(source: WalletSource, line: Line, confirmed: bool) -> readings.Transfer:
    return readings.Transfer(
        line.transfer,
        line.reference,
        from_units(line.units + line.fee, source.decimals),
        from_units(line.fee, source.decimals),
        confirmed,
        line.at,
    )


def _units(source: WalletSource, amount: Decimal) -> int:
    return to_units(amount, source.decimals, record=source.subject)


STEP = Step(name="wallet_balances", event_stage="cutoff", inputs=inputs, write=write, captures=True)
