"""The kernels' tools against Python's own: 128-bit amounts, the bitmap, the CRC chain, and the compile cache."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.exchange.kernels import bitmap, crc, wide
from engine.money import MAX_UNITS, fee_units

MASK = 2**64 - 1
words = st.integers(0, MASK) | st.sampled_from([0, 1, 2**32, 2**63, MASK])
amounts = st.integers(0, MAX_UNITS) | st.integers(0, 2**66) | st.sampled_from([0, 1, MAX_UNITS, 2**64, 10**6 * 2**64])
rates = st.integers(-1_000_000, 1_000_000)


def split(value: int) -> tuple[np.uint64, np.uint64]:
    return np.uint64(value & MASK), np.uint64(value >> 64 & MASK)


def joined(pair: tuple[int, ...]) -> int:
    return int(pair[0]) | int(pair[1]) << 64


@given(amounts, amounts, words, words, words)
@settings(max_examples=400, deadline=None)
def test_wide_sums_products_and_comparisons_are_pythons(a: int, b: int, x: int, y: int, z: int) -> None:
    assert joined(wide.add(split(a), split(b))) == a + b
    assert joined(wide.subtract(split(a), split(b))) == (a - b) % 2**128
    assert bool(wide.less(split(a), split(b))) == (a < b)
    for exact, found in (
        (a * x, wide.scaled(split(a), np.uint64(x))),
        (x * y * z, wide.product(np.uint64(x), np.uint64(y), np.uint64(z))),
    ):
        assert found[2] == (exact > MAX_UNITS), "what does not fit is told, never wrapped"
        if not found[2]:
            assert joined(found) == exact


@given(amounts, rates)
@settings(max_examples=600, deadline=None)
def test_wide_fee_rounds_as_the_ledgers_does(notional: int, rate: int) -> None:
    assert joined(wide.fee(split(notional), rate)) == fee_units(notional, rate) % 2**128


@given(st.integers(1, 70_000), st.lists(st.tuples(st.booleans(), st.integers(0, 69_999)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_bitmap_finds_the_nearest_level_either_way(size: int, moves: list[tuple[bool, int]]) -> None:
    offsets = np.array(bitmap.layout(size), np.int64)
    rows, bits, model = len(offsets) - 1, np.zeros(int(offsets[-1]) + 3, np.uint64), set()
    for remove, number in moves:
        index = number % size
        if remove and index in model:
            model.discard(index)
            bitmap.drop(bits, offsets, 3, rows, index)
        else:
            model.add(index)
            bitmap.put(bits, offsets, 3, rows, index)
        for start in (index, 0, size - 1, (index * 7 + 1) % size):
            assert bitmap.above(bits, offsets, 3, rows, start) == min((i for i in model if i >= start), default=-1)
            assert bitmap.below(bits, offsets, 3, rows, start) == max((i for i in model if i <= start), default=-1)
    assert not bits[:3].any()


@given(st.binary(min_size=0, max_size=160 * 6), st.integers(0, 2**32 - 1), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_crc_chain_is_zlibs_and_stops_at_the_first_record_that_does_not_hold(data: bytes, seed: int, bad: int) -> None:
    chain, records = seed, bytearray()
    for number in range(len(data) // 160):
        body = (number + 1).to_bytes(8, "little") + data[number * 160 + 8 : number * 160 + 156]
        chain = zlib.crc32(body, chain)
        records += body + chain.to_bytes(4, "little")
    count = len(records) // 160
    view = np.frombuffer(bytes(records), np.uint32).reshape(count, 40)
    assert crc.first_bad(view, crc.tables(), 0, seed) == count
    if bad < count:
        records[bad * 160 + 77] ^= 4
        view = np.frombuffer(bytes(records), np.uint32).reshape(count, 40)
        assert crc.first_bad(view, crc.tables(), 0, seed) == bad


PROGRAM = """
import sys
from engine.exchange.kernels import bitmap
import numpy as np
bitmap.above(np.zeros(1, np.uint64), np.array([0, 1]), 0, 1, 0)
stats = bitmap.above.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), stats.cache_path)
"""


def test_compiled_kernels_are_kept_and_found_again_in_a_place_of_ones_own(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    root = Path(__file__).parents[2]
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=root, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [line[:2] for line in said] == [["0", "1"], ["1", "0"]]
    assert said[0][2].startswith(str(tmp_path / "cache"))


@pytest.mark.parametrize("size", [1, 64, 65, 4096, 4097, 2**24])
def test_bitmap_rows_end_in_one_word(size: int) -> None:
    offsets = bitmap.layout(size)
    assert offsets[-1] - offsets[-2] == 1
    assert offsets[1] == (size + 63) // 64
