"""The page that a client of the exchange reads names what the exchange takes, refuses and tells."""

from __future__ import annotations

import re
from pathlib import Path

from engine.events.ordered_publisher import SUBJECTS
from engine.service import messages
from engine.service.market_data import BOOK, SNAPSHOT, TICKER, TRADE, orderbook_hash
from engine.service.outbound import RISK_REASONS
from engine.service.server import CUSTODY, REQUESTS

PAGE = (Path(__file__).parents[2] / "docs" / "ops" / "orders.md").read_text(encoding="utf-8")


def test_page_names_every_subject_every_field_of_an_order_and_every_refusal_of_one() -> None:
    subjects = [
        *REQUESTS,
        *CUSTODY,
        *(subject.removesuffix(">") for subject in SUBJECTS),
        BOOK,
        SNAPSHOT,
        TICKER,
        TRADE,
    ]
    fields = messages._ORDER | messages._ORDER_MAY | messages._OUTER
    reasons = [reason.name.lower() for reason in RISK_REASONS]
    times = [name.upper() for name in messages._TIMES]
    missing = [word for word in (*subjects, *fields, *reasons, *times) if word not in PAGE]
    assert not missing


def test_book_hash_of_the_page_is_the_one_that_the_exchange_says() -> None:
    assert re.findall(r"`([0-9a-f]{64})`", PAGE) == [orderbook_hash([], [("60050", "0.4")])]
