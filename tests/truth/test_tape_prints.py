"""Real prints through the engine: its trades are the tape, print by print, and exchange time decides the day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from engine.clock import CutOffRule, day_number, to_us
from engine.errors import InputError
from engine.exchange import history, snapshot
from engine.exchange.conformance import EngineName
from engine.exchange.events import Side, Trade
from engine.exchange.journal import journal_path
from engine.exchange.replay import replay
from engine.exchange.sequencer import Sequencer, open_exchange
from engine.exchange.snapshot import engine_state_hash
from engine.sim.specs import STREAMS
from engine.sim.tape import Selection, TapeFormat, read_tape
from engine.sim.tape_import import ImportOptions, import_prints

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TRADES_2024 = DATA / "binance_trades_utc_midnight_20240808_09.parquet"
AGGREGATES_2019 = DATA / "xrp_eth_aggtrades_20191011_13.parquet"
pytestmark = pytest.mark.skipif(
    not (TRADES_2024.exists() and AGGREGATES_2019.exists()), reason=f"real market data absent: {DATA}"
)
RULE = CutOffRule(24, 0, "UTC")
TAPES: list[tuple[Path, TapeFormat, date]] = [
    (TRADES_2024, "binance-trades", date(2024, 8, 8)),
    (AGGREGATES_2019, "binance-aggtrades", date(2019, 10, 11)),
]
MIDNIGHT_MS = 1_723_161_600_000


def opened(directory: Path, first_day: date) -> Sequencer:
    return open_exchange(directory, first_day=first_day, cutoff_rule=RULE)


def rows_of(path: Path, tape_format: TapeFormat) -> list[tuple[str, int, int, Decimal, Decimal, Side]]:
    """The spot prints, read independently of the importer: stream, id, ms, price, quantity, taker side."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    if tape_format == "binance-aggtrades":
        sides = {"buy": Side.BUY, "sell": Side.SELL}
        return [
            (
                "spot:XRPETH",
                int(r["id"]),
                r["timestamp"],
                Decimal(str(r["price"])),
                Decimal(str(r["amount"])),
                sides[r["side"]],
            )
            for r in rows
        ]
    return [
        (
            f"spot:{r['symbol']}",
            r["trade_id"],
            r["ts_ms"],
            Decimal(r["price"]),
            Decimal(r["qty"]),
            Side.SELL if r["buyer_is_maker"] else Side.BUY,
        )
        for r in rows
        if r["market"] == "spot"
    ]


def trades_of(directory: Path) -> list[Trade]:
    return [e for events in history.events_from(directory, 0) for e in events if isinstance(e, Trade)]


def part_of(path: Path, out: Path, ids: set[tuple[str, int]]) -> Path:
    """A file with some spot prints only."""
    table = pq.read_table(path)
    keep = [
        (f"{m}:{s}", i) in ids
        for m, s, i in zip(
            table["market"].to_pylist(), table["symbol"].to_pylist(), table["trade_id"].to_pylist(), strict=True
        )
    ]
    pq.write_table(table.filter(pa.array(keep)), out)
    return out


@pytest.mark.parametrize(("path", "tape_format", "first_day"), TAPES, ids=["2024", "2019"])
def test_engine_trades_equal_the_tape_print_by_print_and_a_second_import_is_a_no_op(
    tmp_path: Path, path: Path, tape_format: TapeFormat, first_day: date
) -> None:
    prints = read_tape(path, tape_format)
    with opened(tmp_path, first_day) as sequencer:
        summary = import_prints(sequencer, prints)
        sequencer.engine.check_conservation()
        sequencer.engine.check_locks()
        assert list(sequencer.engine.resting()) == []
        digest = engine_state_hash(sequencer.engine)
    expected = sorted(rows_of(path, tape_format), key=lambda r: (r[2], r[0], r[1]))
    trades = trades_of(tmp_path)
    assert len(trades) == len(expected) == summary.imported
    online, kernel = (replay(tmp_path, engine) for engine in EngineName)
    assert kernel.engine == EngineName.NUMBA
    assert snapshot.pack(kernel.state) == snapshot.pack(online.state) == snapshot.pack(sequencer.engine)
    assert kernel.trades_sha256 == online.trades_sha256
    assert kernel.trades == len(expected)
    with history.events_from(tmp_path, 0) as stream:
        for _ in stream:
            pass
        registry = stream.registry
    for trade, (name, _, ts_ms, price, quantity, side) in zip(trades, expected, strict=True):
        market = registry.markets[trade.market]
        spec = STREAMS[name]
        base, quote = registry.assets[market.base], registry.assets[market.quote]
        assert market.symbol == spec.symbol
        assert spec.tick * trade.price_ticks == price
        assert spec.lot * trade.quantity_lots == quantity
        assert Decimal(trade.base_units).scaleb(-base.decimals) == quantity
        assert Decimal(trade.quote_units).scaleb(-quote.decimals) == price * quantity
        assert trade.taker_side == side
        assert trade.sequenced_us == trade.effective_us == ts_ms * 1000
        assert trade.close_day == ts_ms // 86_400_000
    assert sum(summary.trades_by_day.values()) == len(expected)
    before = journal_path(tmp_path).read_bytes()
    with opened(tmp_path, first_day) as sequencer:
        again = import_prints(sequencer, prints)
        assert again.nothing_to_do
        assert (again.imported, again.skipped, again.deposits) == (0, len(expected), 0)
        assert engine_state_hash(sequencer.engine) == digest
    assert journal_path(tmp_path).read_bytes() == before


def test_days_of_the_2019_tape_hold_the_prints_of_its_readme(tmp_path: Path) -> None:
    with opened(tmp_path, date(2019, 10, 11)) as sequencer:
        summary = import_prints(sequencer, read_tape(AGGREGATES_2019, "binance-aggtrades"))
        # The tape itself journals the cut-offs it crosses, and not the one after its last print.
        assert sequencer.engine.open_day == day_number(date(2019, 10, 13))
    assert list(summary.trades_by_day.values()) == [5929, 4134, 2414]


def test_exchange_time_decides_the_day_and_receipt_time_would_move_27_spot_trades(tmp_path: Path) -> None:
    table = pq.read_table(TRADES_2024)
    spot = table.filter(pc.equal(table["market"], "spot")).to_pylist()
    wrong = {
        (f"spot:{r['symbol']}", r["trade_id"])
        for r in spot
        if r["ts_ms"] >= MIDNIGHT_MS and r["local_ns"] < MIDNIGHT_MS * 1_000_000
    }
    assert len(wrong) == 27
    prints = read_tape(TRADES_2024, "binance-trades")
    moved = [one for one in prints if (one.stream, one.trade_id) in wrong]
    with opened(tmp_path, date(2024, 8, 8)) as sequencer:
        summary = import_prints(sequencer, moved)
    assert summary.trades_by_day == {date(2024, 8, 9): 27}
    # Receipt time is not read at all: whatever it says, the prints are the same.
    column = table.schema.get_field_index("local_ns")
    other = tmp_path / "other.parquet"
    pq.write_table(table.set_column(column, "local_ns", pa.array([0] * table.num_rows, pa.int64())), other)
    assert read_tape(other, "binance-trades") == prints


def test_withheld_prints_arrive_late_into_the_open_day_with_their_own_time(tmp_path: Path) -> None:
    everything = read_tape(TRADES_2024, "binance-trades")
    before = [one for one in everything if one.ts_ms < MIDNIGHT_MS]
    withheld = frozenset((one.stream, one.trade_id) for one in before[-400::40])
    assert len(withheld) == 10
    near = Selection(withheld=withheld)
    first = read_tape(TRADES_2024, "binance-trades", near)
    assert len(first) == len(everything) - 10
    book = tmp_path / "book"
    with opened(book, date(2024, 8, 8)) as sequencer:
        import_prints(sequencer, first)
        sequencer.cut_off(date(2024, 8, 9))
        sealed = engine_state_hash(history.state_at_cutoff(book, date(2024, 8, 8)))
        last_us = sequencer.engine.last_ts_us
        file = part_of(TRADES_2024, tmp_path / "late.parquet", set(withheld))
        with pytest.raises(InputError, match="is missing"):
            read_tape(file, "binance-trades")
        late = read_tape(file, "binance-trades", Selection(sparse=True))
        summary = import_prints(sequencer, late)
        sequencer.engine.check_conservation()
        assert summary.trades_by_day == {date(2024, 8, 10): 10}
        assert import_prints(sequencer, late).nothing_to_do
        assert import_prints(sequencer, everything).nothing_to_do
    trades = trades_of(book)[-10:]
    assert [t.effective_us for t in trades] == [one.ts_ms * 1000 for one in late]
    assert {t.sequenced_us for t in trades} == {last_us}
    assert engine_state_hash(history.state_at_cutoff(book, date(2024, 8, 8))) == sealed
    assert len(trades_of(book)) == len(everything)


def test_import_killed_at_any_moment_and_run_again_gives_the_same_journal(tmp_path: Path) -> None:
    prints = read_tape(AGGREGATES_2019, "binance-aggtrades")[5800:6100]
    options = ImportOptions(users=20)
    with opened(tmp_path / "whole", date(2019, 10, 11)) as sequencer:
        import_prints(sequencer, prints, options)
    whole = journal_path(tmp_path / "whole").read_bytes()
    for size in [160, 300, 160 * 20, 160 * 40 + 7, 160 * 60, *range(160 * 70, len(whole), len(whole) // 12 + 53)]:
        directory = tmp_path / f"cut-{size}"
        directory.mkdir()
        journal_path(directory).write_bytes(whole[:size])
        with opened(directory, date(2019, 10, 11)) as sequencer:
            import_prints(sequencer, prints, options)
        assert journal_path(directory).read_bytes() == whole


def test_same_print_with_another_payload_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    prints = read_tape(AGGREGATES_2019, "binance-aggtrades")[:50]
    with opened(tmp_path, date(2019, 10, 11)) as sequencer:
        import_prints(sequencer, prints[:40])
        seq = sequencer.engine.last_seq
        for change in (
            {"price_ticks": prints[30].price_ticks + 1},
            {"quantity_lots": prints[30].quantity_lots + 1},
            {"taker_side": Side(1 - prints[30].taker_side)},
            {"ts_ms": prints[30].ts_ms + 1},
        ):
            wrong = [*prints[:30], replace(prints[30], **change), *prints[31:]]
            with pytest.raises(InputError, match=f"spot:XRPETH:{prints[30].trade_id} was imported as"):
                import_prints(sequencer, wrong)
            assert sequencer.engine.last_seq == seq
        assert import_prints(sequencer, prints).imported == 10


def test_print_before_the_first_day_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    prints = read_tape(AGGREGATES_2019, "binance-aggtrades")
    with opened(tmp_path, date(2019, 10, 12)) as sequencer:
        with pytest.raises(InputError, match="before the first day"):
            import_prints(sequencer, prints)
        assert sequencer.engine.last_seq == 0


def test_another_seed_trades_the_same_prints_between_other_users(tmp_path: Path) -> None:
    prints = read_tape(AGGREGATES_2019, "binance-aggtrades")[:60]
    found = []
    for seed in (1, 2):
        with opened(tmp_path / str(seed), date(2019, 10, 11)) as sequencer:
            import_prints(sequencer, prints, ImportOptions(seed=seed))
            assert to_us(RULE.instant(date(2019, 10, 11) - timedelta(days=1))) < sequencer.engine.last_ts_us
        found.append(trades_of(tmp_path / str(seed)))
    assert [(t.price_ticks, t.quantity_lots) for t in found[0]] == [(t.price_ticks, t.quantity_lots) for t in found[1]]
    assert [t.taker_account for t in found[0]] != [t.taker_account for t in found[1]]
