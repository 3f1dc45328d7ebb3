"""Order streams whose whole report stream has a published hash, and 34 short traps, on both engines' books."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError, UncheckedError
from engine.exchange import conformance
from engine.exchange.conformance import COLUMNS, EngineName, Stream

FLASH1 = Path(__file__).parents[2].parent / "shared" / "vectors" / "flash1"
HASHES = {
    "flash-crash": "cff8d3f94b709fc64a8b2058a6ca4fb6920364904796e46906895e362d2bb16b",
    "normal": "e9b2e3926854410b01a035aeb25dd05f1e597c233be8263de9eb49b6713d367e",
    "static": "9803843ee404fc29c9a0aa5614f8f0d5a58b5c44fcac9ef89067886fcaaa30d1",
    "swing-25": "61a84be9469661bd039e00dbc9a7c011e70b6ace37aadfe60045ea083b05f4df",
    "swing-40": "3cb0175e7982ff09ea220d1feaee3844cf9116a5ce455757879dea1d880b9b9f",
}
"""Published in `reference/correctness_hash.txt`, seed 23 of every scenario; those whose stream is there are tried."""
ENGINES = list(EngineName)
Row = tuple[int, ...]
needs_vectors = pytest.mark.skipif(not FLASH1.exists(), reason=f"outside vectors absent: {FLASH1}")
CASES: dict[str, list[list[int]]] = json.loads((FLASH1 / "edge_cases_34.json").read_text()) if FLASH1.exists() else {}


def stream_of(messages: list[list[int]] | list[Row]) -> Stream:
    columns = [list(column) for column in zip(*messages, strict=True)] if messages else [[] for _ in COLUMNS]
    return conformance.stream_of(dict(zip(COLUMNS, columns, strict=True)), name="test")


def reports_of(messages: list[list[int]] | list[Row], engine: EngineName) -> list[Row]:
    done, reports = conformance.run(stream_of(messages), engine)
    assert done.reports == len(reports)
    return reports.rows()


class Model:
    """Price-time priority by brute force: a list in order of arrival, searched anew for every fill."""

    def __init__(self) -> None:
        self.resting: list[list[int]] = []  # [side, price, quantity, order id]

    def send(self, seq: int, kind: int, side: int, ioc: int, quantity: int, order_id: int, price: int) -> list[Row]:
        made: list[Row] = []
        if kind:
            found = [r for r in self.resting if r[3] == order_id]
            if not found:
                return [(3 + kind, seq, order_id)]
            self.resting.remove(found[0])
            if kind == 1:
                return [(2, seq, found[0][0], order_id, found[0][1])]
            side, ioc = found[0][0], 0
        else:
            made.append((0, seq, side, order_id, price, quantity))
        left, sign = quantity, 1 if side == 0 else -1
        while left:
            rivals = [r for r in self.resting if r[0] != side and r[1] * sign <= price * sign]
            if not rivals:
                break
            best = min(rivals, key=lambda r: r[1] * sign)
            fill = min(left, best[2])
            made.append((1, seq, best[1], fill, best[3], order_id))
            best[2] -= fill
            left -= fill
            self.resting = [r for r in self.resting if r[2]]
        if left and ioc:
            made.append((2, seq, side, order_id, price))
        elif left:
            self.resting.append([side, price, left, order_id])
        return [*made, (3, seq, side, order_id, price, quantity)] if kind == 2 else made


def model_of(messages: list[list[int]] | list[Row]) -> list[Row]:
    model = Model()
    return [row for seq, message in enumerate(messages) for row in model.send(seq, *message)]


@needs_vectors
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scenario", sorted(HASHES))
def test_published_hash_is_reproduced(scenario: str, engine: EngineName) -> None:
    path = FLASH1 / f"orders_{scenario}_s23.parquet"
    if not path.exists():
        pytest.skip(f"outside stream absent: {path}")
    stream = conformance.read_stream(path)
    done, _ = conformance.run(stream, engine)
    assert done.sha256 == HASHES[scenario]
    assert done.messages == len(stream) == 1_996_097


@needs_vectors
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", sorted(CASES))
def test_edge_case_holds_its_invariant(case: str, engine: EngineName) -> None:
    messages = CASES[case]
    reports = reports_of(messages, engine)
    assert reports == model_of(messages)
    _check_invariants(messages, reports)


def _check_invariants(messages: list[list[int]], reports: list[Row]) -> None:
    """What holds for any price-time book, told from the reports alone."""
    placed: dict[int, int] = defaultdict(int)
    for kind, _, _, quantity, order_id, _ in messages:
        placed[order_id] += quantity if kind != 1 else 0
    taken: dict[int, int] = defaultdict(int)
    limits = {seq: (message[1], message[5]) for seq, message in enumerate(messages)}
    for row in reports:
        if row[0] == 1:
            _, seq, price, quantity, maker, taker = row
            side, limit = limits[seq]
            assert quantity > 0
            assert price <= limit if side == 0 else price >= limit, "never worse than the taker's limit"
            taken[maker] += quantity
            taken[taker] += quantity
    for order_id, quantity in taken.items():
        assert quantity <= placed[order_id], "nothing is filled that was not placed"
    answers: dict[int, int] = defaultdict(int)
    for row in reports:
        answers[row[1]] += row[0] != 1
    for seq, message in enumerate(messages):
        assert 1 <= answers[seq] <= (2 if message[2] else 1), "one answer a message, two for an IOC's rest"


EXPECTED: dict[str, list[Row]] = {
    # The invariants that their names state, written by hand.
    "cancel_middle_then_sweep": [(1, 4, 100, 10, 1, 4), (1, 4, 100, 10, 3, 4)],
    "modify_into_cross": [(1, 2, 100, 10, 1, 2)],
    "taker_price_both_directions": [(1, 1, 100, 10, 1, 2), (1, 3, 200, 10, 3, 4)],
    "ioc_partial_fill_must_not_rest": [(1, 1, 100, 10, 1, 2)],
    "stale_modify_after_full_fill": [(1, 1, 100, 10, 1, 2)],
    "reuse_id_after_full_fill": [(1, 1, 100, 10, 1, 2), (1, 3, 200, 10, 1, 3)],
    "modify_shared_level_sibling_survives": [(1, 3, 100, 10, 2, 3)],
}


@needs_vectors
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_edge_case_trades_as_written_by_hand(case: str, engine: EngineName) -> None:
    assert [row for row in reports_of(CASES[case], engine) if row[0] == 1] == EXPECTED[case]


@needs_vectors
@pytest.mark.parametrize("engine", ENGINES)
def test_deep_sweep_fills_every_order_once(engine: EngineName) -> None:
    trades = [row for row in reports_of(CASES["deep_recursive_sweep_5000"], engine) if row[0] == 1]
    assert [row[4] for row in trades] == list(range(1, len(trades) + 1))
    assert len(trades) == 5000


def traffic(seed: int, count: int, prices: list[int], ids: list[int]) -> list[Row]:
    """A legal stream over few prices and ids that come back as soon as they are free."""
    rng = random.Random(seed)
    model, made = Model(), []
    for seq in range(count):
        free = [one for one in ids if all(r[3] != one for r in model.resting)]
        kind = rng.choice((0, 0, 0, 1, 2)) if free else rng.choice((1, 2))
        order_id = rng.choice(free if kind == 0 else ids)
        side = next((r[0] for r in model.resting if r[3] == order_id), rng.randint(0, 1))
        quantity = rng.choice((rng.randint(1, 9), 10**12)) if kind != 1 else 0
        ioc = int(kind == 0 and rng.random() < 0.2)
        made.append((kind, side, ioc, quantity, order_id, rng.choice(prices) if kind != 1 else 0))
        model.send(seq, *made[-1])
    return made


PRICES = {
    "dense": list(range(95, 106)),
    "negative": list(range(-4, 5)),
    "sparse": [-(2**63), -5, 1, 7, 2**31, 2**40, 2**62, 2**63 - 1],
    "wide": [1, 500_000, 900_000, 1_000_000],
}
IDS = {"small": list(range(12)), "huge": [2**64 - 1 - n * 3_333_333_333 for n in range(12)]}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", sorted(PRICES))
@pytest.mark.parametrize("size", sorted(IDS))
def test_streams_of_any_shape_match_as_the_brute_force_book_does(shape: str, size: str, engine: EngineName) -> None:
    for seed in range(6):
        messages = traffic(seed, 400, PRICES[shape], IDS[size])
        assert reports_of(messages, engine) == model_of(messages)


@pytest.mark.parametrize("engine", ENGINES)
def test_hash_is_over_the_lines_joined_by_line_feeds(engine: EngineName) -> None:
    import hashlib

    messages = traffic(1, 300, PRICES["sparse"], IDS["huge"])
    done, reports = conformance.run(stream_of(messages), engine)
    lines = "\n".join(",".join(map(str, row)) for row in model_of(messages))
    assert done.sha256 == reports.sha256() == hashlib.sha256(lines.encode()).hexdigest()
    empty, _ = conformance.run(stream_of([]), engine)
    assert (empty.messages, empty.reports, empty.sha256) == (0, 0, hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize("engine", ENGINES)
def test_new_order_with_an_id_that_rests_is_refused_with_its_row(engine: EngineName) -> None:
    with pytest.raises(InputError, match=r"row 1 .* id 7, which rests"):
        reports_of([(0, 0, 0, 5, 7, 100), (0, 1, 0, 5, 7, 200)], engine)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ((3, 0, 0, 1, 1, 1), "row 0: type is 3"),
        ((0, 2, 0, 1, 1, 1), "row 0: side is 2"),
        ((0, 0, 2, 1, 1, 1), "row 0: ioc is 2"),
        ((0, 0, 0, 0, 1, 1), "row 0: qty is 0"),
        ((0, 0, 0, -4, 1, 1), "row 0: qty is -4"),
        ((0, 0, 0, 1, -1, 1), "order_id"),
        ((0, 0, 0, 1, 1, 2**63), "price_ticks"),
    ],
)
def test_row_that_breaks_the_format_is_refused_by_name(message: Row, why: str) -> None:
    with pytest.raises(InputError, match=why):
        stream_of([message])


def table(**changes: Any) -> pa.Table:
    return pa.table({column: changes.get(column, [0]) for column in COLUMNS})


HOSTILE: dict[str, tuple[pa.Table | bytes | None, str]] = {
    "absent": (None, "No such file"),
    "empty": (b"", "0 bytes"),
    "text": (b"hello", "5 bytes"),
    "nothing": (pa.table({}), "has no column type, side, ioc, qty, order_id, price_ticks"),
    "columns": (pa.table({column: [0] for column in COLUMNS if column != "ioc"}), "has no column ioc"),
    "twice": (pa.Table.from_arrays([pa.array([0])] * 7, names=[*COLUMNS, "qty"]), "has column qty twice"),
    "floats": (table(price_ticks=[1.0]), "column price_ticks is double"),
    "decimals": (table(qty=[Decimal(1)]), "column qty is decimal"),
    "texts": (table(type=["0"]), "column type is string"),
    "lists": (table(qty=[[1]]), "column qty is list"),
    "nulls": (table(qty=pa.array([None], pa.int64())), "column qty lacks 1 values"),
    "huge": (table(qty=pa.array([2**64 - 1], pa.uint64())), "column qty: Integer value 18446744073709551615"),
    "negative": (table(order_id=[-1]), "column order_id: Integer value -1"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_file_that_is_no_stream_is_refused_by_name(tmp_path: Path, case: str) -> None:
    given, why = HOSTILE[case]
    path = tmp_path / case
    if isinstance(given, pa.Table):
        pq.write_table(given, path)
    elif given is not None:
        path.write_bytes(given)
    with pytest.raises(InputError, match=f"{path}.*{why}") as refused:
        conformance.read_stream(path)
    assert refused.value.next_step


def test_file_whose_column_is_named_in_bytes_that_are_no_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "stream")
    damaged = (tmp_path / "stream").read_bytes().replace(b"order_id", b"order\xc2id")
    (tmp_path / "stream").write_bytes(damaged)
    with pytest.raises(InputError, match="utf-8"):
        conformance.read_stream(tmp_path / "stream")


def test_stream_larger_than_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(table(qty=[1]), tmp_path / "stream")
    assert len(conformance.read_stream(tmp_path / "stream")) == 1
    monkeypatch.setattr(conformance, "memory_bytes", lambda: 400)
    with pytest.raises(UncheckedError, match="more than this machine's memory"):
        conformance.read_stream(tmp_path / "stream")
