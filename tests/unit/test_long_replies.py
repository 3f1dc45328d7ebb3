"""A reply that no server takes is sent short."""

from __future__ import annotations

import asyncio
import json

import pytest

from engine.errors import UncheckedError
from engine.service.book_follower import BookFollower
from engine.service.server import shortened
from engine.service.telling import fitting


def test_long_lists_of_a_reply_are_cut_and_say_what_is_left_out_and_all_else_stays() -> None:
    trades = [{"tradeId": str(number), "price": "1"} for number in range(120_000)]
    reply = {"success": True, "order": {"orderId": "7", "filledQuantity": "12", "trades": trades}}
    short = shortened(reply)
    assert short["order"] == {"orderId": "7", "filledQuantity": "12", "trades": trades[:1000], "omitted": 119_000}
    assert len(json.dumps(short)) < 2**20, "the least that servers take"
    cancelled = {"success": True, "cancelled": [str(number) for number in range(1_001)], "sequence": 9}
    assert shortened(cancelled)["omitted"] == 1
    few = {"success": True, "cancelled": ["1"], "sequence": 9}
    assert shortened(few) == few


def test_long_snapshot_is_packed_and_followed_and_one_that_is_too_long_is_refused_by_name() -> None:
    levels = [[f"{price}.01", "0.5"] for price in range(1_000, 6_000)]
    book = json.dumps({"type": "snapshot", "sequence": 7, "bids": [], "asks": levels}).encode()

    def follower(most_bytes: int) -> BookFollower:
        async def ask() -> bytes:
            told = fitting(book, most_bytes)
            assert len(told) <= most_bytes
            return told

        return BookFollower(ask)

    for most_bytes in (len(book), len(book) - 1, 40_000):
        copy = follower(most_bytes)
        asyncio.run(copy.start())
        assert copy.asks == [(price, quantity) for price, quantity in levels]
    with pytest.raises(UncheckedError, match="too_long"):
        asyncio.run(follower(1_000).start())
