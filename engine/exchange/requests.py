"""Command requests: what the database asks the engine for, as commands, and the answers that the journal holds.

What belongs here: a requested payload as a command, and a journalled command as the answer to its request.
What does not: the rows (see `engine.store.command_requests`), who journals them (see `engine.service`, `engine.steps`).

A request has a key of its own, which is the command's reference in the journal. Where the reference names something
else (the deposit that is reversed, the withdrawal that ended, the account that is opened), that names the request too:
`exchange.command_kinds` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from engine.clock import to_us
from engine.errors import InputError
from engine.exchange import commands as cmd
from engine.exchange.codec import JournalRecord
from engine.exchange.events import CommandAnswered, Event, Rejected
from engine.exchange.postings import ONE_SIDED
from engine.exchange.state import Registry
from engine.exchange.tier_records import MOST_ACCOUNTS
from engine.money import MAX_DECIMALS, parse_decimal, to_units

ACCEPTED = "accepted"
STAGING = "stage_tiers"
"""What a part of a batch of tiers calls itself on its way to the journal; nobody asks for it by that name."""
_PART = 250
"""Rows of one part: 3,000 users."""
_KINDS: dict[type, str] = {
    cmd.SetAccount: "set_account",
    cmd.CancelAll: "cancel_all",
    cmd.Adjust: "adjust",
    cmd.Reward: "reward",
    cmd.DepositReversed: "deposit_reversed",
    cmd.WithdrawalConfirmed: "withdrawal_confirmed",
    cmd.WithdrawalFailed: "withdrawal_failed",
    cmd.SetTier: "set_tier",
    cmd.SetTiers: "set_tiers",
    cmd.SetAccountTier: "set_account_tier",
    cmd.SetReference: "set_reference",
    cmd.OpenAccount: "open_account",
    cmd.SetAsset: "set_asset",
    cmd.SetMarket: "set_market",
    cmd.Marker: "marker",
}
_TRANSFERS: dict[str, Callable[[int, int, int, str], cmd.TransferCommand]] = {
    "adjust": cmd.Adjust,
    "correct_engine": cmd.Adjust,
    "reward": cmd.Reward,
    "deposit_reversed": cmd.DepositReversed,
    "withdrawal_confirmed": cmd.WithdrawalConfirmed,
    "withdrawal_failed": cmd.WithdrawalFailed,
}
_TRADES = cmd.AccountState.ACTIVE
_WITHDRAWS = (cmd.AccountState.ACTIVE, cmd.AccountState.RESTRICTED)


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A row of `exchange.command_requests` that nobody answered yet; `reference` is the command's in the journal."""

    key: str
    kind: str
    reference: str
    payload: Mapping[str, Any]


def command_of(request: CommandRequest, registry: Registry) -> cmd.Command:
    """The command that a request asks for.

    Names that nobody knows become numbers that nobody has, so that the engine refuses them with a typed reason.

    Args:
        request: its payload's fields were checked when it was made.
        registry: names and decimals of the exchange.

    Raises:
        InputError: it can be no command: an amount finer than its asset, or a payload of another shape.
    """
    given = request.payload
    try:
        if request.kind in _TRANSFERS:
            asset = registry.asset_by_symbol.get(given["asset"])
            amount = parse_decimal(given["amount"], record=f"request {request.key}")
            units = 0 if asset is None else to_units(amount, asset.decimals, record=f"request {request.key}")
            number = 0 if asset is None else asset.asset
            return _TRANSFERS[request.kind](given["user_id"], number, units, request.reference)
        return _OTHERS[request.kind](given, request.reference, registry)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"request {request.key} for a command {request.kind} cannot be read: {type(error).__name__} {error}",
            rule="exchange.command_kinds names the fields of a payload",
            next_step="ask again under another key",
        ) from None


def commands_of(request: CommandRequest, registry: Registry) -> list[cmd.Command]:
    """What is journalled for a request, or for a part of one (see `staging_of`)."""
    if request.kind != STAGING:
        return [command_of(request, registry)]
    given = request.payload
    batch, first = given["batch"], given["row"]
    rates: list[cmd.Command] = [cmd.StageTier(batch, first + at, *row) for at, row in enumerate(given["rates"])]
    first += len(rates)
    return rates + [
        cmd.StageAccountTiers(batch, first + at, tier, tuple(accounts))
        for at, (tier, accounts) in enumerate(given["moves"])
    ]


def staging_of(
    request: CommandRequest, rates: Sequence[Sequence[int]], moves: Iterable[tuple[int, Sequence[int]]]
) -> Iterator[CommandRequest]:
    """The rows of a batch of tiers, in parts that fit a message; they are journalled before their `set_tiers`.

    Args:
        request: for the `set_tiers`.
        rates: tier, maker and taker rate of each tier that changes.
        moves: tier, and the users that move to it.
    """
    row, batch = 0, request.payload["batch"]

    def part(rates: Sequence[Sequence[int]], moves: Sequence[tuple[int, Sequence[int]]]) -> CommandRequest:
        payload = {"batch": batch, "row": row, "rates": rates, "moves": moves}
        return CommandRequest(request.key, STAGING, request.reference, payload)

    for start in range(0, len(rates), _PART):
        found = rates[start : start + _PART]
        yield part(found, ())
        row += len(found)
    for tier, users in moves:
        packed = [(tier, users[at : at + MOST_ACCOUNTS]) for at in range(0, len(users), MOST_ACCOUNTS)]
        for start in range(0, len(packed), _PART):
            some = packed[start : start + _PART]
            yield part((), some)
            row += len(some)


def _set_account(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    """Rights follow from the state where they are not given: active trades, active and restricted withdraw."""
    state = cmd.AccountState[given["state"].upper()]
    holds = cmd.Hold.NONE
    for hold in given["holds"]:
        holds |= cmd.Hold[hold.upper()]
    may_trade = given.get("may_trade", state == _TRADES)
    may_withdraw = given.get("may_withdraw", state in _WITHDRAWS)
    return cmd.SetAccount(given["user_id"], state, may_trade, may_withdraw, holds, reference)


def _cancel_all(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    market = 0
    if "market" in given:
        found = registry.market_by_symbol.get(given["market"])
        # 0 would cancel everywhere.
        market = registry.unlisted_market() if found is None else found.market
    return cmd.CancelAll(given["user_id"], market, None, reference)


def _set_tier(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    return cmd.SetTier(given["maker_rate_ppm"], given["taker_rate_ppm"], None, given["tier"], reference)


def _set_tiers(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    return cmd.SetTiers(given["batch"], given["tiers"], given["accounts"], given["sha256"], reference)


def _set_account_tier(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    return cmd.SetAccountTier(given["user_id"], given["tier"], reference)


def _set_reference(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    """A venue's price may lie between two ticks: the lower one counts."""
    at_us = to_us(datetime.fromisoformat(given["at"]))
    market = registry.market_by_symbol.get(given["market"])
    if market is None:
        return cmd.SetReference(0, 0, at_us, reference)
    base, quote = registry.assets[market.base].decimals, registry.assets[market.quote].decimals
    tick = Fraction(market.quote_units_per_tick_lot * 10**base, market.base_units_per_lot * 10**quote)
    price = Fraction(parse_decimal(given["price"], record="price"))
    return cmd.SetReference(market.market, int(price / tick), at_us, reference)


def _marker(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    return cmd.Marker(reference)


def _open_account(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    return cmd.OpenAccount(given["user_id"], given["account"])


def _set_asset(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    return cmd.SetAsset(given["number"], given["asset"], given["decimals"])


def _set_market(given: Mapping[str, Any], reference: str, registry: Registry) -> cmd.Command:
    """A new market, or a later revision of a listed one's limits; what is not given sets no limit."""
    base, quote = (registry.asset_by_symbol.get(given[side]) for side in ("base", "quote"))
    least = parse_decimal(given.get("min_notional", "0"), record="min_notional")
    limits = cmd.MarketLimits(
        given.get("min_quantity_lots", 0),
        given.get("max_quantity_lots", 0),
        0 if quote is None else to_units(least, quote.decimals, record="min_notional"),
        given.get("band_ppm", 0),
        given.get("slippage_ppm", 0),
        given.get("reference_max_age_s", 0) * 1_000_000,
        given["revision"],
    )
    per_lot, per_tick_lot = int(given["base_units_per_lot"]), given["quote_units_per_tick_lot"]
    if base is not None and quote is not None and per_lot:
        tick = Fraction(per_tick_lot * 10**base.decimals, per_lot * 10**quote.decimals)
        if (tick * 10**MAX_DECIMALS).denominator != 1:
            # The engine trades it; the ledger could never write its prices down.
            raise InputError(
                f"market {given['market']}: the price of one tick has more than {MAX_DECIMALS} decimals",
                rule="prices are NUMERIC(38,18)",
                next_step="ask for a tick that is a decimal fraction",
            )
    return cmd.SetMarket(
        given["number"],
        given["market"],
        0 if base is None else base.asset,
        0 if quote is None else quote.asset,
        per_lot,
        per_tick_lot,
        None,
        limits,
    )


_OTHERS: dict[str, Callable[[Mapping[str, Any], str, Registry], cmd.Command]] = {
    "set_account": _set_account,
    "cancel_all": _cancel_all,
    "set_tier": _set_tier,
    "set_tiers": _set_tiers,
    "set_account_tier": _set_account_tier,
    "set_reference": _set_reference,
    "open_account": _open_account,
    "set_asset": _set_asset,
    "set_market": _set_market,
    "marker": _marker,
}


def identity_of(command: cmd.Command) -> tuple[str, str] | None:
    """Kind and reference by which a journalled command names its request; None where nobody can have asked for it."""
    kind = _KINDS.get(type(command))
    if kind is None:
        return None
    if isinstance(command, cmd.Adjust) and command.reference.startswith(ONE_SIDED):
        return "correct_engine", command.reference
    if isinstance(command, cmd.OpenAccount):
        return kind, command.name
    if isinstance(command, cmd.SetAsset):
        return kind, command.symbol
    if isinstance(command, cmd.SetMarket):
        return kind, f"{command.symbol}:{command.limits.revision}"
    name: str = getattr(command, "reference", "")
    return (kind, name) if name else None


def answer_of(record: JournalRecord, events: Sequence[Event]) -> CommandAnswered | None:
    """What a journalled command says to its request, if it has one.

    Args:
        record: of the journal.
        events: what the engine made of it.
    """
    identity = identity_of(record.command)
    if identity is None:
        return None
    reason = next((event.reason for event in events if isinstance(event, Rejected)), None)
    return CommandAnswered(record.seq, *identity, ACCEPTED if reason is None else reason.name.lower())
