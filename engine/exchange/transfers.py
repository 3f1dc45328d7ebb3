"""Commands that move one account's balance without a trade: deposits, withdrawals, stakes, rewards, corrections.

What belongs here: what they check, move and remember.
What does not: trades (see `orders`).
"""

from __future__ import annotations

from dataclasses import replace

from engine.exchange import commands as cmd
from engine.exchange.codec import JournalRecord
from engine.exchange.configuration import account_changed
from engine.exchange.events import Event, Rejected, RejectReason, Transfer, TransferKind
from engine.exchange.state import AVAILABLE, IN_TRANSIT, STAKED, Account, EngineState, UsedKey
from engine.money import most_units

KINDS: dict[type, TransferKind] = {
    cmd.OpeningBalance: TransferKind.OPENING,
    cmd.Deposit: TransferKind.DEPOSIT,
    cmd.DepositReversed: TransferKind.DEPOSIT_REVERSED,
    cmd.Withdrawal: TransferKind.WITHDRAWAL,
    cmd.WithdrawalConfirmed: TransferKind.WITHDRAWAL_CONFIRMED,
    cmd.WithdrawalFailed: TransferKind.WITHDRAWAL_FAILED,
    cmd.Stake: TransferKind.STAKE,
    cmd.Unstake: TransferKind.UNSTAKE,
    cmd.Reward: TransferKind.REWARD,
    cmd.Adjust: TransferKind.ADJUST,
}

_MOVES: dict[TransferKind, tuple[int | None, int | None]] = {
    TransferKind.OPENING: (None, AVAILABLE),
    TransferKind.DEPOSIT: (None, AVAILABLE),
    TransferKind.WITHDRAWAL: (AVAILABLE, IN_TRANSIT),
    TransferKind.WITHDRAWAL_CONFIRMED: (IN_TRANSIT, None),
    TransferKind.WITHDRAWAL_FAILED: (IN_TRANSIT, AVAILABLE),
    TransferKind.STAKE: (AVAILABLE, STAKED),
    TransferKind.UNSTAKE: (STAKED, AVAILABLE),
    TransferKind.REWARD: (None, AVAILABLE),
    TransferKind.ADJUST: (None, AVAILABLE),
}
"""From which place of the balance to which; None is outside."""

_RECEIVES_NOTHING = frozenset(
    (
        cmd.AccountState.PENDING_KYC,
        cmd.AccountState.KYC_REJECTED,
        cmd.AccountState.BANNED,
        cmd.AccountState.CLOSED,
    )
)
"""States in which coins that arrive go to `deposits_unallocated` instead."""

_CREDITS = (TransferKind.OPENING, TransferKind.DEPOSIT, TransferKind.REWARD)
_ENDS = (TransferKind.WITHDRAWAL_CONFIRMED, TransferKind.WITHDRAWAL_FAILED)


def transfer(state: EngineState, record: JournalRecord, command: cmd.TransferCommand) -> list[Event]:
    """Apply a transfer; its reference has one effect per kind, whatever comes with it later."""
    kind = KINDS[type(command)]
    key = UsedKey(record.seq, command.account, command.asset, command.units)
    reason = _refusal(state, kind, command, key)
    if reason == RejectReason.ACCOUNT_MAY_NOT_RECEIVE and kind == TransferKind.DEPOSIT:
        # The coins are there, whatever the account's state: refusing them would leave them in no book.
        state.transfers[TransferKind.DEPOSIT_UNALLOCATED, command.reference] = key
        state.unallocated[command.asset] = state.unallocated.get(command.asset, 0) + command.units
        return [_transferred(state, record, TransferKind.DEPOSIT_UNALLOCATED, command)]
    if reason is not None:
        return [Rejected(record.seq, reason, command.account)]
    row = state.row(command.account, command.asset)
    units = command.units
    source, target = _MOVES[kind]
    if source is not None:
        row[source] -= units
    if target is not None:
        row[target] += units
    if source is None or target is None:
        flows = state.adjustments if kind in (TransferKind.REWARD, TransferKind.ADJUST) else state.external
        flows[command.asset] += units if source is None else -units
    if isinstance(command, cmd.Withdrawal):
        state.withdrawals[command.reference] = command
    elif kind in _ENDS:
        del state.withdrawals[command.reference]
    state.transfers[kind, command.reference] = key
    return [_transferred(state, record, kind, command)]


def reverse_deposit(state: EngineState, record: JournalRecord, command: cmd.DepositReversed) -> list[Event]:
    """Take back a deposit that is gone: what is available of it; what is not is owed, and the account goes on hold."""
    kind = TransferKind.DEPOSIT_REVERSED
    account = state.registry.accounts.get(command.account)
    key = UsedKey(record.seq, command.account, command.asset, command.units)
    reason = _refusal(state, kind, command, key)
    held = state.transfers.get((TransferKind.DEPOSIT_UNALLOCATED, command.reference))
    if reason == RejectReason.UNKNOWN_DEPOSIT and held is not None and held[1:] == key[1:]:
        state.transfers[kind, command.reference] = key
        state.unallocated[command.asset] -= command.units
        return [_transferred(state, record, TransferKind.UNALLOCATED_REVERSED, command)]
    if reason is not None or account is None:
        return [Rejected(record.seq, reason or RejectReason.UNKNOWN_ACCOUNT, command.account)]
    row = state.row(command.account, command.asset)
    taken = min(row[AVAILABLE], command.units)
    owed = command.units - taken
    row[AVAILABLE] -= taken
    state.external[command.asset] -= command.units
    state.transfers[kind, command.reference] = key
    events: list[Event] = [_transferred(state, record, kind, command, owed)]
    if owed:
        debt = command.account, command.asset
        state.owed[debt] = state.owed.get(debt, 0) + owed
        if cmd.Hold.DISPUTE not in account.holds:
            on_hold = replace(account, holds=account.holds | cmd.Hold.DISPUTE)
            state.registry.add_account(on_hold)
            events.append(account_changed(record.seq, on_hold))
    return events


def _transferred(
    state: EngineState, record: JournalRecord, kind: TransferKind, command: cmd.TransferCommand, owed: int = 0
) -> Transfer:
    return Transfer(
        kind,
        record.seq,
        state.open_day,
        record.ts_us,
        record.effective_us,
        command.account,
        command.asset,
        command.units,
        command.reference,
        owed,
    )


def _refusal(state: EngineState, kind: TransferKind, command: cmd.TransferCommand, key: UsedKey) -> RejectReason | None:
    """Why a transfer may not happen; None if it may."""
    if state.in_genesis != (kind == TransferKind.OPENING):
        return RejectReason.INVALID_CUT_OFF
    account = state.registry.accounts.get(command.account)
    if account is None:
        return RejectReason.UNKNOWN_ACCOUNT
    if command.asset not in state.registry.assets:
        return RejectReason.UNKNOWN_ASSET
    known = state.transfers.get((kind, command.reference))
    if known is None and kind == TransferKind.DEPOSIT:
        known = state.transfers.get((TransferKind.DEPOSIT_UNALLOCATED, command.reference))
    if known is not None:
        return key.refusal(known)
    if command.units <= 0 and (kind != TransferKind.ADJUST or command.units == 0):
        return RejectReason.INVALID_QUANTITY
    beyond = _beyond(state, kind, command)
    # What no book can hold cannot be held for nobody either.
    return beyond if beyond == RejectReason.TOO_LARGE else _forbidden(account, kind) or beyond


def _forbidden(account: Account, kind: TransferKind) -> RejectReason | None:
    """What the account's state and holds forbid."""
    if kind == TransferKind.WITHDRAWAL:
        if not account.may_withdraw:
            return RejectReason.ACCOUNT_MAY_NOT_WITHDRAW
        return RejectReason.ACCOUNT_ON_HOLD if account.holds else None
    if kind == TransferKind.STAKE and not account.may_trade:
        return RejectReason.ACCOUNT_MAY_NOT_TRADE
    if kind in _CREDITS and account.state in _RECEIVES_NOTHING:
        return RejectReason.ACCOUNT_MAY_NOT_RECEIVE
    return None


def _beyond(state: EngineState, kind: TransferKind, command: cmd.TransferCommand) -> RejectReason | None:
    """What the balance does not cover, or is too large to hold."""
    units = command.units
    if kind in _CREDITS or (kind == TransferKind.ADJUST and units > 0):
        # Nothing inside can exceed what came in, so this one bound keeps every balance and fee within 2^127, and within
        # what the ledger can write: it could never settle a larger one, nor anything after it.
        most = most_units(state.registry.assets[command.asset].decimals)
        there = state.held(command.asset) + state.unallocated.get(command.asset, 0)
        return RejectReason.TOO_LARGE if there + units > most else None
    if kind == TransferKind.DEPOSIT_REVERSED:
        came = state.transfers.get((TransferKind.DEPOSIT, command.reference))
        mine = came is not None and came[1:] == (command.account, command.asset, units)
        return None if mine else RejectReason.UNKNOWN_DEPOSIT
    if kind in _ENDS:
        asked = state.withdrawals.get(command.reference)
        wanted = (command.account, command.asset, units)
        if asked is None or (asked.account, asked.asset, asked.units) != wanted:
            return RejectReason.UNKNOWN_WITHDRAWAL
        return None
    row = state.balances.get((command.account, command.asset))
    place = STAKED if kind == TransferKind.UNSTAKE else AVAILABLE
    return RejectReason.INSUFFICIENT_FUNDS if row is None or row[place] < abs(units) else None
