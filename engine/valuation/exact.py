"""Lots of one position in plain Python: what the kernel must equal, and what does what does not fit it.

What belongs here: acquiring and disposing under the five methods, in integers of any size.
What does not: arrays (see `booking`), files and databases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.valuation.method import Method


@dataclass(slots=True)
class Lot:
    """What is left of one acquisition.

    Attributes:
        origin: -1 - n for the n-th that was there at the beginning, else the index of the event that acquired it.
        quantity: smallest units of the asset.
        cost: smallest units of the reporting currency.
        acquired_quantity: what it began with; with `acquired_cost` its price, which HIFO and LOFO go by.
        acquired_cost: see above; without fees.
    """

    origin: int
    quantity: int
    cost: int
    acquired_quantity: int
    acquired_cost: int


@dataclass(frozen=True, slots=True)
class Fragment:
    """The part of a disposal that came from one lot."""

    event: int
    origin: int
    quantity: int
    cost: int


@dataclass(slots=True)
class Position:
    """The lots of one user and asset.

    Attributes:
        lots: in order of acquisition.
        fragments: of the disposals so far, in their order.
    """

    method: Method
    lots: list[Lot] = field(default_factory=list)
    fragments: list[Fragment] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.method is Method.AVERAGE and len(self.lots) > 1:
            one = self.lots[0]
            one.quantity, one.cost = self.quantity, self.cost
            self.lots = [one]

    @property
    def quantity(self) -> int:
        """What is held."""
        return sum(lot.quantity for lot in self.lots)

    @property
    def cost(self) -> int:
        """What it cost."""
        return sum(lot.cost for lot in self.lots)

    def acquire(self, event: int, quantity: int, cost: int, price: int) -> None:
        """Take in a lot; the average takes it into the one that is there."""
        if self.method is Method.AVERAGE and self.lots:
            self.lots[0].quantity += quantity
            self.lots[0].cost += cost
            return
        self.lots.append(Lot(event, quantity, cost, quantity, price))

    def dispose(self, event: int, quantity: int) -> int | None:
        """Take lots out; returns their cost, or None where there is not enough and nothing was done.

        The cost of a part of a lot is rounded half up and the remainder stays in the lot.
        """
        if quantity > self.quantity:
            return None
        total = 0
        while quantity:
            lot = self._next()
            taken = min(quantity, lot.quantity)
            part = lot.cost if taken == lot.quantity else (2 * lot.cost * taken + lot.quantity) // (2 * lot.quantity)
            self.fragments.append(Fragment(event, lot.origin, taken, part))
            lot.quantity -= taken
            lot.cost -= part
            total += part
            quantity -= taken
            if not lot.quantity:
                self.lots.remove(lot)
        return total

    def _next(self) -> Lot:
        if self.method in (Method.FIFO, Method.AVERAGE):
            return self.lots[0]
        if self.method is Method.LIFO:
            return self.lots[-1]
        chosen = self.lots[0]
        for lot in self.lots[1:]:
            one = lot.acquired_cost * chosen.acquired_quantity
            other = chosen.acquired_cost * lot.acquired_quantity
            if one > other if self.method is Method.HIFO else one < other:
                chosen = lot
        return chosen


def book(
    method: Method, opening: Sequence[Lot], events: Sequence[tuple[int, bool, int, int, int]]
) -> tuple[Position, list[int], int | None]:
    """Book a position's events.

    Args:
        method: which lot goes first.
        opening: the lots at the beginning.
        events: (index, whether it acquires, quantity, value, value without fees) in order.

    Returns:
        The position, the cost of each event (0 for an acquisition), and the index of the event that disposes of more
        than is held, where one does; what follows it is not booked.
    """
    position = Position(method, list(opening))
    costs: list[int] = []
    for index, acquires, quantity, value, price in events:
        if acquires:
            position.acquire(index, quantity, value, price)
            costs.append(0)
            continue
        cost = position.dispose(index, quantity)
        if cost is None:
            return position, costs, index
        costs.append(cost)
    return position, costs, None
