"""The 30-day window and its tiers against brute force, over 10,000 random histories."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal

import pytest

from engine.close.policy import Policy
from engine.fees.tiers import schedule_of, tier_of
from tests.fixtures.books import MakeBook
from tests.fixtures.histories import FIRST, Fill, instant, leased, write_trades, write_world

USERS, DAYS, TRADES = 10_000, 35, 24_000
SCHEDULE = (("0", 200, 1000), ("1000", 180, 900), ("2500.5", 100, 800), ("20000", -50, 500), ("100000", -100, 300))


def histories(seed: int) -> list[Fill]:
    """Random fills in sequence order; the first of each day prices what the others are quoted in."""
    rng = random.Random(seed)
    fills = []
    for day in range(DAYS):
        seconds = sorted(rng.randrange(1, 86_399) for _ in range(TRADES // DAYS))
        for nth, second in enumerate([0, *seconds]):
            maker, taker = rng.sample(range(1, USERS + 1), 2)
            if nth == 0 or rng.random() < 0.6:
                price = Decimal(rng.randrange(5_000_000, 7_000_000)).scaleb(-2)
                # Some volumes lie on a threshold exactly: it is inclusive.
                quote = Decimal(1000) if rng.random() < 0.1 else Decimal(rng.randrange(1, 10**10)).scaleb(-6)
                fills.append(Fill(day, instant(day, second), "BTC-USDT", price, quote, maker, taker))
            else:
                quote = Decimal(rng.randrange(1, 10**7)).scaleb(-8)
                fills.append(Fill(day, instant(day, second), "ETH-BTC", Decimal("0.05"), quote, maker, taker))
    return fills


def volumes_before(seed: int) -> dict[tuple[int, int], Decimal]:
    """What some users traded on the 29 days before the first, as a book that starts in mid-life brings it."""
    rng = random.Random(seed)
    users = rng.sample(range(1, USERS + 1), USERS // 20)
    return {
        (user, -rng.randrange(1, 30)): Decimal(rng.randrange(1, 10**10)).scaleb(-6) for user in users for _ in range(2)
    }


def brute_force(fills: list[Fill], before: dict[tuple[int, int], Decimal]) -> list[dict[int, Decimal]]:
    """Per day, user -> the sum over 30 days of each trade at the last price before it."""
    by_day: defaultdict[int, defaultdict[int, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for (user, day), volume in before.items():
        by_day[day][user] = volume
    price = Decimal(0)
    for f in fills:
        value = f.quote
        if f.market == "BTC-USDT":
            price = f.price
        else:
            value = (f.quote * price).quantize(Decimal("0.000001"), ROUND_HALF_UP)
        for user in (f.maker, f.taker):
            by_day[f.day][user] += value
    windows = []
    for day in range(DAYS):
        total: defaultdict[int, Decimal] = defaultdict(Decimal)
        for one in range(day - 29, day + 1):
            for user, value in by_day[one].items():
                total[user] += value
        windows.append(dict(total))
    return windows


@pytest.mark.parametrize("seed", [20_261_120])
def test_window_and_tier_of_ten_thousand_histories_equal_brute_force(make_book: MakeBook, seed: int) -> None:
    policy = Policy("USDT", mark_max_age_s=86_400, fee_tiers=SCHEDULE)
    book = make_book(None, policy)
    fills = histories(seed)
    before = volumes_before(seed)
    expected = brute_force(fills, before)
    schedule = schedule_of(SCHEDULE)
    told: dict[int, int] = {}
    changes = days_that_changed = 0
    with book.admin() as owner:
        write_world(owner, users=USERS, days=DAYS)
        write_trades(owner, fills)
        # The days of this world are past their opening.
        owner.execute("ALTER TABLE positions.opening_volumes DISABLE TRIGGER guard")
        with owner.cursor().copy("COPY positions.opening_volumes FROM STDIN") as copy:
            for (user, day), volume in before.items():
                copy.write_row((user, FIRST + timedelta(days=day), volume))
        dates = [FIRST + timedelta(days=n) for n in range(DAYS)]
        with leased(owner, dates) as epochs:
            for day, want in zip(dates, expected, strict=True):
                owner.execute("SELECT positions.write_volume_30d(%s, %s)", (day, epochs[day]))
                asked = owner.execute(
                    "SELECT rates, users FROM positions.ask_for_tiers(%s, %s)", (day, epochs[day])
                ).fetchone()
                rows = owner.execute(
                    "SELECT user_id, volume, tier FROM positions.volume_30d WHERE close_date = %s", (day,)
                ).fetchall()
                assert {user: volume for user, volume, _ in rows} == want
                tiers = {user: tier_of(volume, schedule) for user, volume in want.items()}
                assert {user: tier for user, _, tier in rows} == tiers
                moved = {u for u in tiers.keys() | told.keys() if tiers.get(u, 0) != told.get(u, 0)}
                assert asked == (len(SCHEDULE) if day == FIRST else 0, len(moved))
                told = {user: tier for user, tier in tiers.items() if tier}
                changes += len(moved)
                days_that_changed += day == FIRST or bool(moved)
        requests = owner.execute(
            "SELECT kind, count(DISTINCT payload ->> 'batch'), sum((payload ->> 'tiers')::integer),"
            " sum((payload ->> 'accounts')::integer), max(octet_length(payload::text)) < 200"
            " FROM exchange.command_requests GROUP BY 1"
        ).fetchall()
        assert requests == [("set_tiers", days_that_changed, len(SCHEDULE), changes, True)]
        current = owner.execute("SELECT user_id, tier FROM positions.user_tiers WHERE tier > 0").fetchall()
        assert dict(current) == told
    assert changes > 5_000
    assert len(set(told.values())) >= 3
