"""What a file of fills comes to: proceeds, cost, realised gain, the lots left, and each part of each disposal.

What belongs here: fills as events of positions, their values, and the totals. What does not: reading the file (see
`fills`), and booking (see `booking`).

Values have 18 decimals. What a fill is worth is rounded once, half up, and that number is used on both sides of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np

from engine.clock import iso_us
from engine.errors import InputError
from engine.money import MAX_DECIMALS, from_units, text_of
from engine.valuation import exact
from engine.valuation.booking import Flows, amounts, book, integers
from engine.valuation.fills import Fill
from engine.valuation.method import Method

_FITS = 2**127


class FeeTreatment(Enum):
    """What a fee is. A rebate is a negative fee, and coins of one are acquired at mark, under either."""

    DISPOSAL = "disposal"
    """An expense of its own: coins paid as a fee are disposed of at mark, gains are gross of fees."""
    CAPITALISED = "capitalised"
    """Part of the price: added to the cost of what is bought, deducted from the proceeds of what is sold."""


def usual_treatment(method: Method) -> FeeTreatment:
    """What a file is booked with where nobody says: lots as tax reports have them, average cost as brokers do."""
    return FeeTreatment.DISPOSAL if method == Method.AVERAGE else FeeTreatment.CAPITALISED


@dataclass(slots=True)
class _Event:
    fill: Fill
    kind: str
    acquires: bool
    quantity: int
    value: int
    price: int = 0


@dataclass(slots=True)
class _Position:
    events: list[_Event] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    lots: list[exact.Lot] = field(default_factory=list)
    fragments: list[exact.Fragment] = field(default_factory=list)


@dataclass(slots=True)
class _Totals:
    proceeds: int = 0
    cost: int = 0
    trading: int = 0
    fees: int = 0
    capitalised: int = 0


def report(
    fills: Sequence[Fill], method: Method, fees: FeeTreatment | None = None, *, fragments: bool = False
) -> dict[str, Any]:
    """Book fills and say what they come to; amounts are text.

    Args:
        fills: in order.
        method: which lot a disposal takes first.
        fees: what a fee is; the method's usual treatment where it is not said.
        fragments: also each part of each disposal, with its lot.

    Raises:
        InputError: a fill sells, or a fee pays, more than is held, or a fee has no price; names line and user.
    """
    treatment = fees or usual_treatment(method)
    positions: defaultdict[tuple[str, str], _Position] = defaultdict(_Position)
    totals = _Totals()
    prices: dict[str, Decimal] = {}
    for fill in fills:
        prices[fill.asset] = fill.price
        _add_events(fill, positions, totals, treatment, prices)
    _book(positions, method)
    parts = []
    for (user, asset), position in sorted(positions.items()):
        parts.append(_summary(user, asset, position, totals))
    gain = totals.proceeds - totals.cost
    result: dict[str, Any] = {
        "method": method.value,
        "fee_treatment": treatment.value,
        "fills": len(fills),
        "proceeds": _text(totals.proceeds),
        "cost": _text(totals.cost),
        "realized_gain": _text(gain),
        "trading_gain": _text(totals.trading),
        "fees": _text(totals.fees),
        "fees_capitalised": _text(totals.capitalised),
        "realized_gain_net_of_fees": _text(gain - totals.fees + totals.capitalised),
        "positions": parts,
        "remaining_lots": [lot for key, position in sorted(positions.items()) for lot in _lots(*key, position, method)],
    }
    if fragments:
        result["fragments"] = [
            part for key, position in sorted(positions.items()) for part in _fragments(*key, position, method)
        ]
    return result


def _add_events(
    fill: Fill,
    positions: defaultdict[tuple[str, str], _Position],
    totals: _Totals,
    treatment: FeeTreatment,
    prices: dict[str, Decimal],
) -> None:
    value = _value(fill.quantity, fill.price)
    quantity = _units(fill.quantity)
    fee_value = _fee_value(fill, prices)
    totals.fees += fee_value
    of_base = fill.fee_asset == fill.asset and fill.fee != 0
    # More than a sale brings cannot be deducted from it.
    fits = fill.buys or of_base or fee_value <= value
    into_price = treatment is FeeTreatment.CAPITALISED and fee_value > 0 and fits
    if into_price:
        totals.capitalised += fee_value
    mine = positions[fill.user, fill.asset].events
    if fill.buys:
        mine.append(_Event(fill, "buy", True, quantity, value + fee_value * into_price, value))
    elif of_base and into_price:
        # The coins of the fee leave with those sold, and bring nothing of their own.
        mine.append(_Event(fill, "sell", False, quantity + _units(fill.fee), value))
        return
    else:
        mine.append(_Event(fill, "sell", False, quantity, value - fee_value * into_price))
    if fill.fee_asset is not None and fill.fee:
        paid = positions[fill.user, fill.fee_asset].events
        kind = "fee" if fill.fee > 0 else "rebate"
        paid.append(_Event(fill, kind, fill.fee < 0, _units(abs(fill.fee)), abs(fee_value), abs(fee_value)))


def _fee_value(fill: Fill, prices: dict[str, Decimal]) -> int:
    if not fill.fee:
        return 0
    if fill.fee_asset is None:
        return _units(fill.fee)
    price = prices.get(fill.fee_asset)
    if price is None:
        raise InputError(
            f"line {fill.row}: a fee in {fill.fee_asset}, which had no price yet",
            rule="a fee is valued at the last price at or before it, never at zero",
            next_step="give the fee in the reporting currency, or begin the file with a fill of that asset",
        )
    value = _value(abs(fill.fee), price)
    return value if fill.fee > 0 else -value


def _book(positions: dict[tuple[str, str], _Position], method: Method) -> None:
    """Book all positions: the kernel those that fit it, plain Python the others."""
    fit = [p for p in positions.values() if all(e.quantity < _FITS and e.value < _FITS for e in p.events)]
    events = [event for position in fit for event in position.events]
    starts = np.cumsum([0, *(len(position.events) for position in fit)]).astype(np.int64)
    none = np.zeros((0, 2), np.uint64)
    flows = Flows(
        starts,
        np.array([event.acquires for event in events], bool),
        amounts([event.quantity for event in events]),
        amounts([event.value for event in events]),
        amounts([event.price for event in events]),
        np.zeros(len(fit) + 1, np.int64),
        (none, none, none, none),
    )
    done = book(method, flows, fragments=True)
    for g, event in done.oversold:
        _refuse_oversold(fit[g], event - int(starts[g]), method)
    costs = integers(done.cost)
    columns = [integers(column) for column in done.lots]
    live = done.live().tolist()
    told = done.fragments
    assert told is not None
    for slot, g in zip(live, (np.searchsorted(done.lot_from, live, side="right") - 1).tolist(), strict=True):
        own = (int(done.origin[slot]) - int(starts[g]), *(column[slot] for column in columns))
        fit[g].lots.append(exact.Lot(*own))
    rows = zip(told.event.tolist(), told.origin.tolist(), integers(told.quantity), integers(told.cost), strict=True)
    owners = (np.searchsorted(starts, told.event, side="right") - 1).tolist()
    for (event, origin, quantity, cost), g in zip(rows, owners, strict=True):
        at = int(starts[g])
        fit[g].fragments.append(exact.Fragment(event - at, origin - at, quantity, cost))
    for g, position in enumerate(fit):
        position.costs = costs[int(starts[g]) : int(starts[g + 1])]
        if g in done.beyond:
            _book_exactly(position, method)
    for position in positions.values():
        if not position.costs:
            _book_exactly(position, method)


def _book_exactly(position: _Position, method: Method) -> None:
    rows = [(n, event.acquires, event.quantity, event.value, event.price) for n, event in enumerate(position.events)]
    booked, costs, oversold = exact.book(method, [], rows)
    if oversold is not None:
        _refuse_oversold(position, oversold, method)
    position.costs, position.lots, position.fragments = costs, booked.lots, booked.fragments


def _refuse_oversold(position: _Position, at: int, method: Method) -> None:
    event = position.events[at]
    held = sum(e.quantity if e.acquires else -e.quantity for e in position.events[:at])
    who = f"user {event.fill.user}" if event.fill.user else "the file's one user"
    asset = (event.fill.fee_asset if event.kind == "fee" else event.fill.asset) or "the asset"
    raise InputError(
        f"line {event.fill.row}: {who} disposes of {_text(event.quantity)} of {asset} by a {event.kind}"
        f" and holds {_text(held)}",
        rule="more than is held cannot be sold: there are not enough lots, and there are no short positions",
        next_step="put what is missing before it, or split a fill that flips a position",
    )


def _summary(user: str, asset: str, position: _Position, totals: _Totals) -> dict[str, str]:
    gone = [(event, cost) for event, cost in zip(position.events, position.costs, strict=True) if not event.acquires]
    proceeds, cost = sum(event.value for event, _ in gone), sum(cost for _, cost in gone)
    totals.proceeds += proceeds
    totals.cost += cost
    totals.trading += sum(event.value - cost for event, cost in gone if event.kind == "sell")
    return {
        "user": user,
        "asset": asset,
        "proceeds": _text(proceeds),
        "cost": _text(cost),
        "realized_gain": _text(proceeds - cost),
        "remaining_quantity": _text(sum(lot.quantity for lot in position.lots)),
        "remaining_cost": _text(sum(lot.cost for lot in position.lots)),
    }


def _lots(user: str, asset: str, position: _Position, method: Method) -> list[dict[str, Any]]:
    return [
        {
            "user": user,
            "asset": asset,
            "acquired_at": _acquired(position, lot.origin, method),
            "quantity": _text(lot.quantity),
            "cost": _text(lot.cost),
        }
        for lot in position.lots
    ]


def _fragments(user: str, asset: str, position: _Position, method: Method) -> list[dict[str, Any]]:
    """Parts of disposals; what a disposal brings is divided so that the parts sum to it exactly."""
    out = []
    event_at, taken, told = -1, 0, 0
    for part in position.fragments:
        event = position.events[part.event]
        if part.event != event_at:
            event_at, taken, told = part.event, 0, 0
        taken += part.quantity
        upto = (2 * event.value * taken + event.quantity) // (2 * event.quantity)
        proceeds, told = upto - told, upto
        out.append(
            {
                "user": user,
                "asset": asset,
                "kind": event.kind,
                "disposed_at": _instant(event.fill.executed_at),
                "acquired_at": _acquired(position, part.origin, method),
                "quantity": _text(part.quantity),
                "proceeds": _text(proceeds),
                "cost": _text(part.cost),
                "gain": _text(proceeds - part.cost),
                "disposed_line": event.fill.row,
                "acquired_line": None if method is Method.AVERAGE else position.events[part.origin].fill.row,
            }
        )
    return out


def _acquired(position: _Position, origin: int, method: Method) -> str | None:
    return None if method is Method.AVERAGE else _instant(position.events[origin].fill.executed_at)


def _instant(at: datetime) -> str:
    return iso_us(at)


def _value(quantity: Decimal, price: Decimal) -> int:
    """Quantity times price in units of 10^-18, rounded half up."""
    scale = int(10**MAX_DECIMALS)
    return (2 * _units(quantity) * _units(price) + scale) // (2 * scale)


def _units(amount: Decimal) -> int:
    """An amount of at most 18 decimals in units of 10^-18."""
    sign, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int)
    value = int("".join(map(str, digits))) * int(10 ** (MAX_DECIMALS + exponent))
    return -value if sign else value


def _text(units: int) -> str:
    return text_of(from_units(units, MAX_DECIMALS))
