"""A reply that no server takes is sent short."""

from __future__ import annotations

import json

from engine.service.server import shortened


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
