"""Streams of every command that an exchange knows, for tests that compare engines."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from hypothesis import strategies as st

from engine.clock import CutOffRule, from_day_number, to_us
from engine.exchange import commands as cmd
from engine.exchange.events import Side

RULE = CutOffRule(24, 0, "UTC")
FIRST_DAY = 20514
OPENS_US = to_us(RULE.instant(from_day_number(FIRST_DAY - 1)))
SECOND = 1_000_000
HOUR = 3_600 * SECOND
ACCOUNTS = (1, 2, 3, 2**63 + 5)
"""Numbers of accounts are any 64-bit ones."""

LIMITS = cmd.MarketLimits(2, 60, 30, 400_000, 150_000, 20 * SECOND, 1)
HUGE = 10**30
"""Smallest units of an asset with 18 decimals: far beyond 64 bits."""

CONFIGURATION: list[cmd.Command] = [
    cmd.SetAsset(1, "USDT", 6),
    cmd.SetAsset(2, "BTC", 8),
    cmd.SetAsset(7, "ETH", 18),
    cmd.SetMarket(1, "BTC-USDT", 2, 1, 10, 3),
    cmd.SetMarket(9, "ETH-BTC", 7, 2, 10**21, 1, None, LIMITS),
    cmd.SetMarket(300, "BTC-ETH", 2, 7, 1, 10**17 + 1),
    cmd.SetTier(-70, 1500),
    cmd.SetTier(-200, 700, None, 4),
    *(cmd.OpenAccount(n, f"u-{n}") for n in ACCOUNTS),
    *(cmd.OpeningBalance(n, a, {1: 3000, 2: 4000, 7: HUGE}[a], f"o-{n}-{a}") for n in ACCOUNTS for a in (1, 2, 7)),
]
FIRST_ID = len(CONFIGURATION) + 2

accounts = st.sampled_from([*ACCOUNTS] * 5 + [5, 0])  # 5 and 0 are unknown
markets = st.sampled_from([1, 1, 1, 9, 9, 300, 2])
sides = st.sampled_from([Side.BUY, Side.SELL])
prices = st.sampled_from([*range(1, 9)] * 6 + [0, -1, 2**40, 2**63 - 1])
quantities = st.sampled_from([*range(1, 40)] * 3 + [0, -3, 2**62])
references = st.sampled_from([""] * 12 + ["r1", "r2", "r" * 64])
ids = st.integers(0, 90).map(lambda n: n + FIRST_ID) | st.sampled_from([0, 2**64 - 1])
tifs = st.sampled_from([cmd.TimeInForce.GTC] * 5 + list(cmd.TimeInForce))
reserves = st.sampled_from([0] * 8 + [5, 8, 2**63 - 1])
orders = st.builds(cmd.NewOrder, accounts, markets, sides, prices, quantities, tifs, references, st.none(), reserves)
cancels = st.builds(cmd.CancelOrder, accounts, ids)
cancel_alls = st.builds(cmd.CancelAll, accounts, st.sampled_from([0, 0, 1, 9, 2]))
reductions = st.builds(cmd.ReduceOrder, accounts, ids, st.sampled_from([1, 2, 5, 100, 0, -1]))
amendments = st.builds(cmd.AmendOrder, accounts, ids, prices, quantities)
keys = st.sampled_from(["a", "b", "c", "d", "e", "f"])
amounts = st.just(100) | st.integers(0, 5_000) | st.sampled_from([HUGE // 7, 2**127 - 1])
transfers = st.sampled_from(
    [
        cmd.Deposit,
        cmd.DepositReversed,
        cmd.DepositReversed,
        cmd.Withdrawal,
        cmd.WithdrawalConfirmed,
        cmd.WithdrawalFailed,
        cmd.Stake,
        cmd.Unstake,
        cmd.Reward,
    ]
).flatmap(lambda kind: st.builds(kind, accounts, st.sampled_from([1, 2, 7, 4]), amounts, keys))
adjustments = st.builds(cmd.Adjust, accounts, st.sampled_from([1, 2, 7]), st.integers(-3000, 3000), keys)
tiers = st.builds(
    cmd.SetTier,
    st.integers(-2000, 3000),
    st.integers(-1, 3000),
    st.none(),
    st.sampled_from([0, 0, 4, 5]),
    st.sampled_from(["", "t1", "t2"]),
)


def batch_of(number: int, rows: list[cmd.TierRow], reference: str) -> cmd.SetTiers:
    """The end of a batch that is exactly these rows."""
    lines = [
        f"{row.tier}:{row.maker_rate_ppm}:{row.taker_rate_ppm}\n"
        if isinstance(row, cmd.StageTier)
        else "".join(f"{row.tier}:{account}\n" for account in row.accounts)
        for row in rows
    ]
    tiers = sum(isinstance(row, cmd.StageTier) for row in rows)
    accounts = sum(len(row.accounts) for row in rows if isinstance(row, cmd.StageAccountTiers))
    return cmd.SetTiers(number, tiers, accounts, hashlib.sha256("".join(lines).encode()).hexdigest(), reference)


@st.composite
def tier_batches(draw: st.DrawFn) -> list[cmd.Command]:
    """A batch whole, torn, torn and then whole, or with a row too many, out of place or changed."""
    number = draw(st.integers(1, 4))
    rates = draw(st.dictionaries(st.sampled_from([0, 4, 5]), st.sampled_from([(-70, 900), (10, 400), (-900, 90)])))
    groups = draw(st.lists(st.tuples(st.sampled_from([0, 4, 5, 6]), st.lists(accounts, min_size=1, max_size=12))))
    rows: list[cmd.TierRow] = [cmd.StageTier(number, at, tier, *both) for at, (tier, both) in enumerate(rates.items())]
    rows += [cmd.StageAccountTiers(number, len(rates) + at, t, tuple(who)) for at, (t, who) in enumerate(groups)]
    end = batch_of(number, rows, draw(keys))
    torn = rows[: draw(st.integers(0, len(rows)))]
    ways: list[list[cmd.Command]] = [
        [*rows, end],
        [*rows, end, *rows, end],
        [*torn],
        [*torn, *rows, end],
        [*torn, end],
        [*rows, *torn[1:], end],
        [*rows, replace(end, sha256="0" * 64)],
        [*rows, replace(end, accounts=end.accounts + 1)],
    ]
    return draw(st.sampled_from([ways[0]] * 6 + ways))


account_tiers = st.builds(cmd.SetAccountTier, accounts, st.sampled_from([0, 4, 5, 6]), keys)
rights = st.builds(
    cmd.SetAccount,
    accounts,
    st.sampled_from([cmd.AccountState.ACTIVE] * 4 + list(cmd.AccountState)),
    st.sampled_from([True, True, False]),
    st.booleans(),
    st.sampled_from([cmd.Hold.NONE, cmd.Hold.NONE, cmd.Hold.BREAK | cmd.Hold.LEGAL]),
    keys,
)
venue_prices = st.builds(cmd.SetReference, st.sampled_from([1, 9, 9, 300, 2]), prices)
limits = st.builds(
    cmd.MarketLimits,
    st.integers(0, 5),
    st.sampled_from([0, 30, 3]),
    st.sampled_from([0, 20, 2**100]),
    st.sampled_from([0, 300_000, 1_000_000, 1_000_001]),
    st.sampled_from([0, 200_000, 1_000_000]),
    st.sampled_from([0, SECOND, HOUR]),
    st.integers(0, 5),
)
market_limits = st.builds(
    lambda bounds, which: cmd.SetMarket(*which, None, bounds),
    limits,
    st.sampled_from([(1, "BTC-USDT", 2, 1, 10, 3), (9, "ETH-BTC", 7, 2, 10**21, 1), (11, "NEW", 2, 1, 10, 0)]),
)
markers = st.builds(cmd.Marker, references)
commands = st.sampled_from(
    # flatmap, since one_of takes a strategy that is named several times only once.
    [orders] * 24
    + [cancels, cancel_alls, reductions, reductions, amendments, amendments, amendments, venue_prices]
    + [transfers, transfers, adjustments, tiers, account_tiers, rights, market_limits, markers]
).flatmap(lambda chosen: chosen)
steps = st.tuples(commands, st.sampled_from([0, 0, 0, 1, SECOND, 8 * SECOND, HOUR, -HOUR, 30 * HOUR]))
batches = st.tuples(tier_batches(), st.sampled_from([0, 1, 30 * HOUR])).map(
    # A day may end between two rows.
    lambda both: [(command, both[1] if at == 1 else 0) for at, command in enumerate(both[0])]
)
pieces = st.sampled_from([steps.map(lambda one: [one])] * 20 + [batches]).flatmap(lambda chosen: chosen)
streams = (st.lists(pieces, max_size=30) | st.lists(pieces, min_size=30, max_size=90)).map(
    lambda found: [one for piece in found for one in piece]
)
