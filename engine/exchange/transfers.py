"""Commands that move one account's balance without a trade: opening, deposit, withdrawal and its end.

What belongs here: what they check, move and remember.
What does not: trades (see `orders`).
"""

from __future__ import annotations

from engine.exchange import commands as cmd
from engine.exchange.codec import JournalRecord
from engine.exchange.events import Event, Rejected, RejectReason, Transfer, TransferKind
from engine.exchange.state import AVAILABLE, IN_TRANSIT, EngineState
from engine.money import MAX_UNITS

KINDS: dict[type, TransferKind] = {
    cmd.OpeningBalance: TransferKind.OPENING,
    cmd.Deposit: TransferKind.DEPOSIT,
    cmd.Withdrawal: TransferKind.WITHDRAWAL,
    cmd.WithdrawalConfirmed: TransferKind.WITHDRAWAL_CONFIRMED,
    cmd.WithdrawalFailed: TransferKind.WITHDRAWAL_FAILED,
}


def transfer(state: EngineState, record: JournalRecord, command: cmd.TransferCommand) -> list[Event]:
    """Apply a transfer; its reference has one effect per kind, whatever comes with it later."""
    kind = KINDS[type(command)]
    reason = _refusal(state, kind, command)
    if reason is not None:
        return [Rejected(record.seq, reason, command.account)]
    row = state.row(command.account, command.asset)
    units = command.units
    if kind in (TransferKind.OPENING, TransferKind.DEPOSIT):
        row[AVAILABLE] += units
        state.external[command.asset] += units
    elif isinstance(command, cmd.Withdrawal):
        row[AVAILABLE] -= units
        row[IN_TRANSIT] += units
        state.withdrawals[command.reference] = command
    else:
        row[IN_TRANSIT] -= units
        del state.withdrawals[command.reference]
        if kind == TransferKind.WITHDRAWAL_FAILED:
            row[AVAILABLE] += units
        else:
            state.external[command.asset] -= units
    state.transfers[kind, command.reference] = record.seq
    return [
        Transfer(
            kind,
            record.seq,
            state.open_day,
            record.ts_us,
            record.effective_us,
            command.account,
            command.asset,
            units,
            command.reference,
        )
    ]


def _refusal(state: EngineState, kind: TransferKind, command: cmd.TransferCommand) -> RejectReason | None:
    """Why a transfer may not happen; None if it may."""
    if state.in_genesis != (kind == TransferKind.OPENING):
        return RejectReason.INVALID_CUT_OFF
    if command.account not in state.registry.accounts:
        return RejectReason.UNKNOWN_ACCOUNT
    if command.asset not in state.registry.assets:
        return RejectReason.UNKNOWN_ASSET
    if (kind, command.reference) in state.transfers:
        return RejectReason.DUPLICATE_REFERENCE
    if command.units <= 0:
        return RejectReason.INVALID_QUANTITY
    if kind in (TransferKind.OPENING, TransferKind.DEPOSIT):
        # Nothing inside can exceed what came in, so this one bound keeps every balance and fee within 2^127.
        return RejectReason.TOO_LARGE if state.external[command.asset] + command.units > MAX_UNITS else None
    if kind == TransferKind.WITHDRAWAL:
        row = state.balances.get((command.account, command.asset))
        return RejectReason.INSUFFICIENT_FUNDS if row is None or row[AVAILABLE] < command.units else None
    asked = state.withdrawals.get(command.reference)
    if asked is None or (asked.account, asked.asset, asked.units) != (command.account, command.asset, command.units):
        return RejectReason.UNKNOWN_WITHDRAWAL
    return None
