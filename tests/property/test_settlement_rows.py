"""Rows out of compiled loops are those of plain Python, byte by byte; row hashes are the journals' own."""

from __future__ import annotations

import struct
from datetime import timedelta
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import EPOCH, day_number, from_us, iso_us
from engine.errors import LedgerRefusedError
from engine.exchange.events import Side, Trade
from engine.exchange.kernels import copy_fields
from engine.exchange.postings import journal_of
from engine.exchange.state import Account, Asset, Market, Registry
from engine.ledger.journal import Journal
from engine.store import copy_binary
from engine.store import settlement_rows as rows_of
from engine.store.settlement_arrays import LAST_US, arrays_of
from engine.store.settlement_columns import wide
from engine.store.settlement_names import Names
from tests.property.examples import examples

BEYOND = 1 << 127
EDGES = [
    edge + by for edge in (0, 10**4, 10**8, 10**16, 1 << 32, 1 << 63, 1 << 64, 10**36, BEYOND - 2) for by in (-1, 0, 1)
]
WIDE = st.one_of(st.integers(1 - BEYOND, BEYOND - 1), st.integers(-(10**6), 10**6), st.sampled_from(EDGES))
INSTANTS = st.integers(0, LAST_US - 1)
TODAY = day_number((EPOCH + timedelta(days=20_500)).date())


def scratch() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(copy_fields.LIMBS, np.uint64), np.zeros(copy_fields.GROUPS, np.int64)


def by_kernel(units: int, decimals: int | None) -> bytes:
    """A numeric field, or with no decimals the plain text."""
    out = np.zeros(80, np.uint8)
    upper, lower = wide([units])
    if decimals is None:
        return bytes(out[: copy_fields.put_decimal(out, 0, upper[0], lower[0], *scratch())])
    return bytes(out[: copy_fields.put_numeric(out, 0, upper[0], lower[0], decimals, *scratch())])


def value_of(field: bytes) -> tuple[Decimal, int]:
    """What a numeric field says (Postgres, numeric_recv), and its display scale."""
    length, count, weight, sign, scale = struct.unpack_from("!iHhHH", field)
    groups = struct.unpack_from(f"!{count}H", field, 12)
    assert length == len(field) - 4 == 8 + 2 * count
    assert all(group < 10_000 for group in groups)
    if groups:
        assert groups[0] != 0
        assert groups[-1] != 0
    else:
        assert (weight, sign) == (0, 0)
    with localcontext(prec=100):
        total = sum((Decimal(g).scaleb(4 * (weight - n)) for n, g in enumerate(groups)), Decimal(0))
        return (-total if sign == 0x4000 else total), scale


@examples(300, 1000)
@given(WIDE, st.integers(0, 18))
def test_numeric_field_is_the_exact_amount_and_alike_in_both(units: int, decimals: int) -> None:
    field = copy_binary.numeric(units, decimals)
    assert by_kernel(units, decimals) == field
    with localcontext(prec=100):
        assert value_of(field) == (Decimal(units).scaleb(-decimals), decimals)


@given(st.integers(-(10**60), 10**60), st.integers(0, 18))
def test_numeric_field_of_plain_python_has_no_size_that_it_wraps_at(units: int, decimals: int) -> None:
    with localcontext(prec=100):
        assert value_of(copy_binary.numeric(units, decimals)) == (Decimal(units).scaleb(-decimals), decimals)


@settings(max_examples=500, deadline=None)
@given(WIDE)
def test_decimal_text_is_that_of_the_integer(units: int) -> None:
    assert by_kernel(units, None) == str(units).encode()


@settings(max_examples=500, deadline=None)
@given(INSTANTS)
def test_instant_is_the_canonical_text(us: int) -> None:
    out = np.zeros(40, np.uint8)
    assert bytes(out[: copy_fields.put_instant(out, 0, us)]) == iso_us(from_us(us)).encode()


@pytest.mark.parametrize("units", [BEYOND, -BEYOND, BEYOND - 1 + (1 << 64)])
def test_amount_beyond_the_arrays_is_not_wrapped(units: int) -> None:
    with pytest.raises(OverflowError):
        wide([1, units])


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
AMOUNTS = st.one_of(st.integers(1, 10**12), st.integers(1, BEYOND - 1))
FEES = st.one_of(st.just(0), st.integers(-(10**9), 10**9), st.integers(1 - BEYOND, BEYOND - 1))
IDS = st.integers(1, (1 << 63) - 1)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Trade], Registry]:
    """A few trades between a few accounts of any names, on two markets that share an asset."""
    registry = Registry()
    for number in (1, 2, 3):
        registry.assets[number] = Asset(number, f"{draw(NAMES)[:30]}{number}", draw(st.integers(0, 18)))
    for number, base in ((7, 2), (8, 3)):
        lots = 10 ** registry.assets[base].decimals
        registry.markets[number] = Market(number, f"{draw(NAMES)[:60]}{number}", base, 1, lots, 1)
    numbers = draw(st.lists(IDS, min_size=2, max_size=5, unique=True))
    for number in numbers:
        registry.accounts[number] = Account(number, draw(NAMES))
    trade = st.builds(
        Trade,
        trade_id=IDS, engine_seq=IDS, fill_index=st.integers(0, 2**31 - 1), close_day=st.integers(0, TODAY),
        sequenced_us=INSTANTS, effective_us=INSTANTS, market=st.sampled_from((7, 8)), price_ticks=st.integers(1, 10**9),
        quantity_lots=IDS, base_units=AMOUNTS, quote_units=AMOUNTS, taker_side=st.sampled_from(Side),
        maker_account=st.sampled_from(numbers), taker_account=st.sampled_from(numbers), maker_order_id=IDS,
        taker_order_id=IDS, maker_fee_units=FEES, taker_fee_units=FEES, maker_rate_ppm=st.integers(-(2**31), 2**31 - 1),
        taker_rate_ppm=st.integers(-(2**31), 2**31 - 1),
    )  # fmt: skip
    return draw(st.lists(trade, min_size=1, max_size=12)), registry


@settings(max_examples=300, deadline=None)
@given(batches(), st.integers(1, 10**15))
def test_rows_and_hashes_of_a_batch_are_those_of_its_trades_one_by_one(
    batch: tuple[list[Trade], Registry], first: int
) -> None:
    trades, registry = batch
    journals: list[Journal] = [j for trade in trades if (j := journal_of(trade, registry)) is not None]
    decimals = {asset.symbol: asset.decimals for asset in registry.assets.values()}
    names, known, asked = Names("someone"), dict[tuple[str, str], int](), list[tuple[str, str]]()
    arrays_of(trades[: len(trades) // 2 + 1], registry, names)
    arrays = arrays_of(trades, registry, names)
    arrays.number(np.arange(first, first + len(trades)))

    def numbered_accounts(pairs: list[tuple[str, str]]) -> list[int]:
        asked.extend(pairs)
        known.update((pair, n * 10**9) for n, pair in enumerate(pairs, 1))
        return [known[pair] for pair in pairs]

    ids = arrays.ids(names, numbered_accounts)
    touched = {(leg.account, leg.asset) for journal in journals for leg in journal.legs}
    assert set(asked) == touched
    assert np.array_equal(arrays.ids(names, lambda pairs: pytest.fail(f"{pairs} are known")), ids)
    numbered = list(enumerate(journals, first))
    assert bytes(arrays.row_hashes()) == b"".join(journal.row_hash() for journal in journals)
    expected = b"".join(rows_of.trade_row(trade, n, registry) for n, trade in enumerate(trades, first))
    assert bytes(arrays.trade_rows()) == expected
    assert bytes(arrays.journal_rows()) == b"".join(rows_of.journal_row(j, n, "someone") for n, j in numbered)
    legs = b"".join(rows_of.leg_rows(j, n, known, decimals) for n, j in numbered)
    assert bytes(arrays.leg_rows(ids)) == legs


def one_trade(**changes: object) -> tuple[list[Trade], Registry]:
    registry = Registry()
    registry.assets.update({1: Asset(1, "USDT", 6), 2: Asset(2, "BTC", 8)})
    registry.markets[1] = Market(1, "BTC-USDT", 2, 1, 10_000, 1)
    registry.accounts.update({1: Account(1, "alice"), 2: Account(2, "bob")})
    values: dict[str, object] = dict.fromkeys(Trade._fields, 1) | {"taker_account": 2} | changes
    return [Trade(**values)], registry  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"trade_id": 1 << 63}, {"engine_seq": -(1 << 63) - 1}, {"fill_index": 1 << 31}, {"close_day": 1 << 31},
        {"maker_rate_ppm": -(1 << 31) - 1}, {"taker_rate_ppm": 1 << 31}, {"base_units": BEYOND},
        {"quote_units": BEYOND}, {"maker_fee_units": -BEYOND}, {"effective_us": -1}, {"sequenced_us": LAST_US},
    ],
)  # fmt: skip
def test_number_beyond_its_column_is_left_to_plain_python_never_cut(changes: dict[str, object]) -> None:
    trades, registry = one_trade(**changes)
    with pytest.raises(OverflowError):
        arrays_of(trades, registry, Names("someone"))


@pytest.mark.parametrize("name", ["base_units", "quote_units"])
def test_trade_with_a_leg_of_zero_is_refused_as_a_journal_is(name: str) -> None:
    trades, registry = one_trade(**{name: 0})
    with pytest.raises(LedgerRefusedError, match="a leg of zero"):
        arrays_of(trades, registry, Names("someone"))


@pytest.mark.parametrize("name", ["al\tice", "al\nice", "Älice"])
def test_name_that_could_forge_a_separator_is_refused(name: str) -> None:
    trades, registry = one_trade()
    registry.accounts[1] = Account(1, name)
    with pytest.raises(ValueError, match="printable ASCII"):
        arrays_of(trades, registry, Names("someone"))
