"""A file of fills: every rule that a row can break, and what fees do."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.valuation.fills import read_fills
from engine.valuation.method import Method
from engine.valuation.report import FeeTreatment, report

HEADER = "executed_at,side,quantity,price"
DISPOSAL, CAPITALISED = FeeTreatment.DISPOSAL, FeeTreatment.CAPITALISED


def booked(path: Path, text: str, method: Method = Method.FIFO, fees: FeeTreatment = DISPOSAL) -> dict[str, Any]:
    file = path / "fills.csv"
    file.write_text(text)
    return report(read_fills(file), method, fees, fragments=True)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("2026-01-02,buy,1,1\n2026-01-01,buy,1,1", "line 3: 2026-01-01 comes after"),
        ("2026-01-01,buy,1,1\n2026-01-01,buy,1,1", "line 3: the same fill twice"),
        ("2026-01-01,buy,0,1", "line 2: quantity 0"),
        ("2026-01-01,buy,1,0", "line 2: price 0"),
        ("2026-01-01,buy,-1,1", "line 2: quantity -1"),
        ("2026-01-01,buy,NaN,1", "line 2: quantity: 'NaN'"),
        ("2026-01-01,buy,1e3,1", "line 2: quantity: '1e3'"),
        ("2026-01-01,buy,1.0000000000000000001,1", "too many digits"),
        ("2026-01-01,buy," + "9" * 39 + ",1", "too many digits"),
        ("2026-01-01,short,1,1", "line 2: side 'short'"),
        ("yesterday,buy,1,1", "line 2: executed_at 'yesterday'"),
        ("2026-01-01,buy,1", "line 2: 3 values"),
        ("2026-01-01,sell,1,1", "line 2: the file's one user disposes of 1"),
        ("", "there is no fill"),
    ],
)
def test_row_that_breaks_a_rule_is_named(rows: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        booked(tmp_path, f"{HEADER}\n{rows}\n")


@pytest.mark.parametrize(
    ("rows", "said"),
    [("1,1", "line 3: sequence 1 follows 1"), ("2,1", "line 3: sequence 1 follows 2"), ("1,x", "line 3: sequence 'x'")],
)
def test_sequence_must_increase(rows: str, said: str, tmp_path: Path) -> None:
    first, second = rows.split(",")
    text = f"{HEADER},sequence\n2026-01-01,buy,1,1,{first}\n2026-01-02,buy,1,1,{second}\n"
    with pytest.raises(InputError, match=said):
        booked(tmp_path, text)


def test_sequence_orders_fills_whatever_their_time(tmp_path: Path) -> None:
    text = f"{HEADER},sequence\n2026-01-02,buy,1,5,1\n2026-01-01,buy,1,7,2\n2026-01-03,sell,1,9,3\n"
    assert booked(tmp_path, text)["realized_gain"] == "4"


@pytest.mark.parametrize("header", ["executed_at,side,quantity", f"{HEADER},colour", f"{HEADER},price"])
def test_columns_are_known(header: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column"):
        booked(tmp_path, f"{header}\n2026-01-01,buy,1,1\n")


def test_oversold_user_and_asset_are_named_and_no_other_user_helps_out(tmp_path: Path) -> None:
    text = f"{HEADER},user,asset\n2026-01-01,buy,5,1,ann,BTC\n2026-01-02,sell,1,1,bob,BTC\n"
    with pytest.raises(InputError, match="line 3: user bob disposes of 1 of BTC by a sell and holds 0"):
        booked(tmp_path, text)


def test_fee_in_the_coin_is_a_disposal_at_mark(tmp_path: Path) -> None:
    text = f"{HEADER},asset,fee,fee_asset\n2026-01-01,buy,10,1,X,0,\n2026-01-02,sell,4,3,X,1,X\n"
    told = booked(tmp_path, text)
    assert (told["proceeds"], told["cost"], told["realized_gain"], told["fees"]) == ("15", "5", "10", "3")
    assert [part["kind"] for part in told["fragments"]] == ["sell", "fee"]
    assert told["realized_gain_net_of_fees"] == "7"
    assert told["trading_gain"] == "8"


def test_fee_in_the_coin_of_a_sale_capitalised_leaves_with_it(tmp_path: Path) -> None:
    text = f"{HEADER},asset,fee,fee_asset\n2026-01-01,buy,10,1,X,0,\n2026-01-02,sell,4,3,X,1,X\n"
    told = booked(tmp_path, text, fees=CAPITALISED)
    assert (told["proceeds"], told["cost"], told["realized_gain"]) == ("12", "5", "7")
    assert [(part["kind"], part["quantity"]) for part in told["fragments"]] == [("sell", "5")]
    assert told["realized_gain_net_of_fees"] == "7"


def test_fee_in_the_coin_of_a_purchase_capitalised_is_cost_and_a_disposal(tmp_path: Path) -> None:
    text = f"{HEADER},asset,fee,fee_asset\n2026-01-01,buy,10,2,X,1,X\n"
    told = booked(tmp_path, text, fees=CAPITALISED)
    assert told["remaining_lots"] == [
        {"user": "", "asset": "X", "acquired_at": "2026-01-01T00:00:00.000000Z", "quantity": "9", "cost": "19.8"}
    ]
    assert told["realized_gain"] == "-0.2"


@pytest.mark.parametrize("fees", [DISPOSAL, CAPITALISED])
def test_rebate_in_the_coin_is_acquired_at_mark(fees: FeeTreatment, tmp_path: Path) -> None:
    text = f"{HEADER},asset,fee,fee_asset\n2026-01-01,buy,10,2,X,-1,X\n"
    told = booked(tmp_path, text, fees=fees)
    assert [(lot["quantity"], lot["cost"]) for lot in told["remaining_lots"]] == [("10", "20"), ("1", "2")]
    assert told["fees"] == "-2"


@pytest.mark.parametrize("fees", [DISPOSAL, CAPITALISED])
def test_gain_net_of_fees_is_the_same_once_everything_is_sold(fees: FeeTreatment, tmp_path: Path) -> None:
    rows = "2026-01-01,buy,10,2,X,1,USD\n2026-01-02,sell,4,3,X,0.5,USD\n2026-01-03,sell,6,1,X,0.25,USD"
    told = booked(tmp_path, f"{HEADER},asset,fee,fee_asset\n{rows}\n", fees=fees)
    assert told["realized_gain_net_of_fees"] == "-3.75"


def test_fee_in_a_third_asset_is_taken_from_its_lots_at_its_last_price(tmp_path: Path) -> None:
    rows = "2026-01-01,buy,10,5,BNB,0,\n2026-01-02,buy,1,100,X,2,BNB"
    told = booked(tmp_path, f"{HEADER},asset,fee,fee_asset\n{rows}\n")
    assert told["fees"] == "10"
    assert told["realized_gain"] == "0"
    late = "2026-01-02,buy,1,100,X,2,BNB\n2026-01-03,buy,10,5,BNB,0,"
    with pytest.raises(InputError, match="a fee in BNB, which had no price yet"):
        booked(tmp_path, f"{HEADER},asset,fee,fee_asset\n{late}\n")


def test_second_unpriced_fee_asset_is_refused(tmp_path: Path) -> None:
    rows = "2026-01-01,buy,10,5,X,1,USD\n2026-01-02,buy,1,100,X,2,EUR"
    with pytest.raises(InputError, match="a fee in EUR, which has no price"):
        booked(tmp_path, f"{HEADER},asset,fee,fee_asset\n{rows}\n")


def test_parts_of_a_disposal_sum_to_it(tmp_path: Path) -> None:
    rows = "\n".join(f"2026-01-01T00:00:{n:02}Z,buy,1.000000000000000001,{n + 1}.7" for n in range(7))
    told = booked(
        tmp_path, f"{HEADER}\n{rows}\n2026-01-02,sell,6.123456789012345678,3.333333333333333333\n", Method.HIFO
    )
    parts = told["fragments"]
    assert sum(Decimal(p["proceeds"]) for p in parts) == Decimal(told["proceeds"])
    assert sum(Decimal(p["cost"]) for p in parts) == Decimal(told["cost"])
    assert [p["acquired_line"] for p in parts] == [8, 7, 6, 5, 4, 3, 2]


def test_amounts_beyond_128_bits_are_still_exact(tmp_path: Path) -> None:
    large = "9" * 30 + ".000000000000000001"
    told = booked(tmp_path, f"{HEADER}\n2026-01-01,buy,{large},{large}\n2026-01-02,sell,{large},1\n")
    assert told["proceeds"] == large
    assert told["positions"][0]["remaining_cost"] == "0"
