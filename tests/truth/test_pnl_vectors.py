"""Realised gains against numbers that nobody here computed, by the command and the kernel behind it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.valuation.fills import read_fills
from engine.valuation.method import Method
from engine.valuation.report import report

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "pnl"
pytestmark = pytest.mark.skipif(not VECTORS.exists(), reason=f"outside vectors absent: {VECTORS}")
CLOSE = Decimal("1e-8")


def vector(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return found


def booked(
    path: Path, rows: list[tuple[str, ...]], method: str, *, columns: str = "executed_at,side,quantity,price"
) -> Any:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return report(read_fills(path), Method(method), fragments=True)


@pytest.mark.parametrize("method", ["fifo", "lifo", "hifo", "lofo"])
def test_golden_totals(method: str) -> None:
    golden = vector("lots_b2.json")
    told = report(read_fills(VECTORS / golden["fills"]), Method(method))
    assert abs(Decimal(told["realized_gain"]) - Decimal(golden["realized_gain"][method])) < CLOSE
    assert abs(Decimal(told["proceeds"]) - Decimal(golden["proceeds"])) < CLOSE
    assert Decimal(told["proceeds"]) - Decimal(told["cost"]) == Decimal(told["realized_gain"])


def test_command_needs_no_database() -> None:
    golden = vector("lots_b2.json")
    command = [sys.executable, "-m", "pipelines.cli.app", "pnl", "--method", "hifo", "--json", "--fills"]
    run = subprocess.run(
        [*command, VECTORS / golden["fills"]],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
    )
    told = json.loads(run.stdout)
    assert abs(Decimal(told["realized_gain"]) - Decimal(golden["realized_gain"]["hifo"])) < CLOSE
    assert "fragments" not in told


@pytest.mark.parametrize("name", ["TT example", "interleaved sides"])
def test_average_cost_follows_the_published_sequence(name: str, tmp_path: Path) -> None:
    case = next(c for c in vector("average_cost.json")["cases"] if c["name"] == name)
    rate = Decimal(case["commission_rate"])
    rows = [
        (f"2026-01-01T00:00:0{n}Z", side.lower(), quantity, price, str(Decimal(quantity) * Decimal(price) * rate))
        for n, (side, quantity, price) in enumerate(case["fills"])
    ]
    for n, expected in enumerate(case["after"], start=1):
        if expected is None:
            continue
        told = booked(tmp_path / "f.csv", rows[:n], "average", columns="executed_at,side,quantity,price,fee")
        assert abs(Decimal(told["realized_gain_net_of_fees"]) - Decimal(expected["realized"])) <= CLOSE
        (position,) = told["positions"]
        assert Decimal(position["remaining_quantity"]) == Decimal(expected["qty"])
        if "avg" in expected:
            average = Decimal(position["remaining_cost"]) / Decimal(position["remaining_quantity"])
            assert abs(average - Decimal(expected["avg"])) < CLOSE


def test_sale_that_would_flip_a_position_is_refused(tmp_path: Path) -> None:
    rows = [("2026-01-01", "buy", "100000", "0.75"), ("2026-01-02", "sell", "150000", "0.7502")]
    with pytest.raises(InputError, match="not enough lots"):
        booked(tmp_path / "f.csv", rows, "average")


@pytest.mark.parametrize("method", ["FIFO", "LIFO"])
def test_lots_are_booked_by_their_date_and_never_oversold(method: str, tmp_path: Path) -> None:
    case = vector("lot_booking.json")
    held = sorted((at, "buy", quantity, price) for quantity, price, at in case["inventory"])
    for sold, expected in case[method].items():
        rows = [*held, ("2015-11-01", "sell", sold, "200")] if sold != "0" else list(held)
        if isinstance(expected, str):
            with pytest.raises(InputError, match="more than is held cannot be sold: there are not enough lots"):
                booked(tmp_path / "f.csv", rows, method.lower())
            continue
        told = booked(tmp_path / "f.csv", rows, method.lower())["fragments"]
        parts = [(Decimal(p["quantity"]), Decimal(p["cost"]) / Decimal(p["quantity"])) for p in told]
        assert parts == [(Decimal(quantity), Decimal(price)) for quantity, price in expected]


def test_without_being_told_lots_book_fees_as_rp2_does_and_average_cost_as_brokers_do(tmp_path: Path) -> None:
    fills = [("2026-01-01T00:00:00Z", "buy", "2", "10", "1"), ("2026-01-02T00:00:00Z", "sell", "1", "20", "1")]
    columns = "executed_at,side,quantity,price,fee"
    assert booked(tmp_path / "f.csv", fills, "fifo", columns=columns)["realized_gain"] == "8.5"
    average = booked(tmp_path / "f.csv", fills, "average", columns=columns)
    assert (average["realized_gain"], average["realized_gain_net_of_fees"]) == ("10", "8")
