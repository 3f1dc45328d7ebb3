"""Lots for all inputs: the kernel equals plain Python equals a page of fractions, and nothing is lost or made."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.exchange.kernels.jit import Array, kernel
from engine.valuation import exact
from engine.valuation.booking import Flows, amounts, book, integers
from engine.valuation.kernels.share import dearer, share
from engine.valuation.method import Method
from tests.property.examples import examples

Event = tuple[bool, int, int]


def model(method: Method, events: list[Event]) -> tuple[list[int], list[tuple[int, int, int]]] | int:
    """Costs of disposals and the lots left, (event, quantity, cost); or the event that sells more than is held."""
    lots: list[dict[str, int | Fraction]] = []
    costs = []
    for at, (acquires, quantity, value) in enumerate(events):
        if acquires:
            if method is Method.AVERAGE and lots:
                lots[0]["quantity"] += quantity
                lots[0]["cost"] += value
            else:
                lots.append({"at": at, "quantity": quantity, "cost": value, "price": Fraction(value, quantity)})
            continue
        if quantity > sum(lot["quantity"] for lot in lots):
            return at
        order = {
            Method.FIFO: lambda lot: lot["at"],
            Method.LIFO: lambda lot: -lot["at"],
            Method.HIFO: lambda lot: (-lot["price"], lot["at"]),
            Method.LOFO: lambda lot: (lot["price"], lot["at"]),
            Method.AVERAGE: lambda lot: 0,
        }[method]
        cost = 0
        for lot in sorted(lots, key=order):
            taken = min(quantity, lot["quantity"])
            part = floor(Fraction(lot["cost"]) * taken / lot["quantity"] + Fraction(1, 2))
            lot["quantity"] -= taken
            lot["cost"] -= part
            cost += part
            quantity -= taken
        lots = [lot for lot in lots if lot["quantity"]]
        costs.append(cost)
    return costs, [(int(lot["at"]), int(lot["quantity"]), int(lot["cost"])) for lot in lots]


sizes = st.sampled_from([3, 10, 40, 63, 64, 65, 80, 100, 118])
size = sizes.flatmap(lambda bits: st.integers(1, 2**bits))


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    events: list[Event] = []
    held = 0
    for _ in range(draw(st.integers(0, 14))):
        if held and draw(st.booleans()):
            how = draw(st.integers(0, 20))
            quantity = held + 1 if how == 0 else held if how < 4 else draw(st.integers(1, held))
            held -= quantity
            events.append((False, quantity, 0))
            if held < 0:
                break
        else:
            events.append((True, draw(size), draw(size) - 1))
            held += events[-1][1]
    return events


def flows(positions: list[list[Event]]) -> Flows:
    events = [event for position in positions for event in position]
    none = np.zeros((0, 2), np.uint64)
    return Flows(
        np.cumsum([0, *map(len, positions)]).astype(np.int64),
        np.array([event[0] for event in events], bool),
        amounts([event[1] for event in events]),
        amounts([event[2] for event in events]),
        amounts([event[2] for event in events]),
        np.zeros(len(positions) + 1, np.int64),
        (none, none, none, none),
    )


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(Method), st.lists(histories(), min_size=1, max_size=3), st.integers(1, 3))
def test_kernel_and_plain_python_and_fractions_agree(
    method: Method, positions: list[list[Event]], threads: int
) -> None:
    given = flows(positions)
    done = book(method, given, fragments=True, threads=threads)
    oversold = dict(done.oversold)
    quantities, costs = integers(done.lots[0]), integers(done.lots[1])
    live = done.live()
    for g, events in enumerate(positions):
        start = int(given.event_from[g])
        expected = model(method, events)
        plain, plain_costs, fault = exact.book(method, [], [(n, *event, event[2]) for n, event in enumerate(events)])
        if isinstance(expected, int):
            assert fault == expected
            assert oversold[g] == start + expected
            continue
        assert g not in oversold
        assert [c for c, event in zip(plain_costs, events, strict=True) if not event[0]] == expected[0]
        assert [(lot.origin, lot.quantity, lot.cost) for lot in plain.lots] == expected[1]
        mine = [int(s) for s in live if done.lot_from[g] <= s < done.lot_from[g + 1]]
        assert [(int(done.origin[s]) - start, quantities[s], costs[s]) for s in mine] == expected[1]
        assert integers(done.cost[start : start + len(events)]) == plain_costs
        parts = [n for n, at in enumerate(done.fragments.event) if start <= at < start + len(events)]
        assert [
            exact.Fragment(int(e) - start, int(o) - start, q, c)
            for e, o, q, c in zip(
                done.fragments.event[parts],
                done.fragments.origin[parts],
                integers(done.fragments.quantity[parts]),
                integers(done.fragments.cost[parts]),
                strict=True,
            )
        ] == plain.fragments
        assert sum(v for a, _, v in events if a) == sum(plain_costs) + sum(cost for _, _, cost in expected[1])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(Method), histories(), st.integers(0, 14))
def test_lots_carried_over_a_cut_give_what_one_run_gives(method: Method, events: list[Event], cut: int) -> None:
    whole = model(method, events)
    if isinstance(whole, int):
        return
    before = events[:cut]
    first = book(method, flows([before]))
    live = first.live()
    columns = tuple(column[live] for column in first.lots)
    carried = flows([events[cut:]])
    carried.opening, carried.opening_from = columns, np.array([0, len(live)], np.int64)  # type: ignore[assignment]
    second = book(method, carried)
    left = second.live()
    amounts_left = list(zip(integers(second.lots[0][left]), integers(second.lots[1][left]), strict=True))
    assert amounts_left == [lot[1:] for lot in whole[1]]
    assert sum(integers(second.cost)) + sum(integers(first.cost)) == sum(whole[0])


@kernel
def _share_one(a: Array, b: Array, d: Array, out: Array) -> None:
    low, high = share((a[0, 0], a[0, 1]), (b[0, 0], b[0, 1]), (d[0, 0], d[0, 1]))
    out[0, 0] = low
    out[0, 1] = high


@kernel
def _dearer_one(a: Array, b: Array, c: Array, d: Array) -> bool:
    return bool(dearer((a[0, 0], a[0, 1]), (b[0, 0], b[0, 1]), (c[0, 0], c[0, 1]), (d[0, 0], d[0, 1])))


words = st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
wide = st.builds(lambda high, low: (high * 2**64 + low) % 2**127, st.just(0) | words, words)


@examples(1000, 3000)
@given(wide, wide, wide)
@example(2**127 - 1, 2**127 - 2, 2**127 - 1)
@example(2**127 - 1, 2**64, 2**64 + 1)
@example(2**127 - 1, 2**64 - 1, 2**64)
@example(2**127 - 1, 2**126 - 1, 2**126)
def test_share_of_128_bits_is_exact(a: int, b: int, d: int) -> None:
    if b == d:
        return
    b, d = min(b, d), max(b, d)
    out = np.zeros((1, 2), np.uint64)
    _share_one(amounts([a]), amounts([b]), amounts([d]), out)
    assert integers(out) == [(2 * a * b + d) // (2 * d)]


@settings(max_examples=500, deadline=None)
@given(wide, wide, wide, wide)
def test_prices_compare_without_division(a: int, b: int, c: int, d: int) -> None:
    b, d = b + 1, d + 1
    assert _dearer_one(amounts([a]), amounts([b]), amounts([c]), amounts([d])) == (Fraction(a, b) > Fraction(c, d))


@pytest.mark.parametrize("method", list(Method))
def test_what_does_not_fit_128_bits_is_booked_in_plain_python(method: Method) -> None:
    events = [(True, 2**126, 5), (True, 2**126, 2**126), (False, 2**126 + 1, 0)]
    done = book(method, flows([events, [(True, 7, 7)]]))
    position, costs = done.beyond[0]
    assert sum(costs) + position.cost == 5 + 2**126
    assert done.live().tolist() == [int(done.lot_from[1])]


def test_amounts_of_a_trillion_at_18_decimals_are_exact() -> None:
    quantity, cost = 10**30, 10**30 + 7
    done = book(Method.FIFO, flows([[(True, quantity, cost), (False, quantity // 3, 0)]]))
    assert integers(done.cost)[1] == (2 * cost * (quantity // 3) + quantity) // (2 * quantity)
    assert not done.beyond
