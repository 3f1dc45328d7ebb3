"""The demo exchange's configuration: its size, assets, markets and people.

What belongs here: what is there before anyone trades.
What does not: what they do (see `demo_flow`), and loading it (see `demo`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from engine.clock import CloseDate, CutOffRule
from engine.close.policy import GATES, OUTSIDE_GATES
from engine.exchange.commands import SetAsset, SetMarket


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """The demo's size and seed: the same values give the same journal, byte for byte.

    Attributes:
        seed: any integer.
        days: close dates, each cut off.
        users: ordinary accounts, `u-0001` on; market makers (`mm-01` on) come in addition.
        makers: at least 2.
        steps_per_day: actions a day; about 0.55 trades come of each.
        first_day: the first close date.
        cutoff_rule: when a day ends.
        maker_rate_ppm: fee rates; a negative maker rate is a rebate.
        taker_rate_ppm: see above.
    """

    seed: int = 1
    days: int = 3
    users: int = 500
    makers: int = 10
    steps_per_day: int = 7000
    first_day: CloseDate = date(2026, 3, 2)
    cutoff_rule: CutOffRule = field(default_factory=lambda: CutOffRule(24, 0, "UTC"))
    maker_rate_ppm: int = 200
    taker_rate_ppm: int = 1000


@dataclass(frozen=True, slots=True)
class DemoMarket:
    """A market and where its price starts; prices walk in whole ticks."""

    command: SetMarket
    start_ticks: int


USDT, BTC, ETH, SOL, XRP, SHIB, QTRA = 1, 2, 3, 4, 5, 6, 7

ASSETS = (
    SetAsset(USDT, "USDT", 6),
    SetAsset(BTC, "BTC", 8),
    SetAsset(ETH, "ETH", 18),
    SetAsset(SOL, "SOL", 9),
    SetAsset(XRP, "XRP", 6),
    SetAsset(SHIB, "SHIB", 8),
    SetAsset(QTRA, "QTRA", 18),
)

MARKETS = (
    # tick 0.01 USDT, lot 0.0001 BTC: 0.000001 USDT, one unit
    DemoMarket(SetMarket(1, "BTC-USDT", BTC, USDT, 10**4, 1), 6_400_000),
    # tick 0.01 USDT, lot 0.001 ETH
    DemoMarket(SetMarket(2, "ETH-USDT", ETH, USDT, 10**15, 10), 310_000),
    # tick 0.01 USDT, lot 0.01 SOL
    DemoMarket(SetMarket(3, "SOL-USDT", SOL, USDT, 10**7, 100), 14_500),
    # tick 0.0001 USDT, lot 1 XRP
    DemoMarket(SetMarket(4, "XRP-USDT", XRP, USDT, 10**6, 100), 5_200),
    # tick 0.000000001 USDT, lot 1,000 SHIB: worth two thousandths of a cent each
    DemoMarket(SetMarket(5, "SHIB-USDT", SHIB, USDT, 10**11, 1), 20_000),
    # tick 0.00001 BTC, lot 0.001 ETH
    DemoMarket(SetMarket(6, "ETH-BTC", ETH, BTC, 10**15, 1), 4_844),
    # tick 0.0001 USDT, lot 1 QTRA: the exchange's own coin, which is staked
    DemoMarket(SetMarket(7, "QTRA-USDT", QTRA, USDT, 10**18, 100), 5_000),
)

MAKER_FUNDS = {
    USDT: 20_000_000 * 10**6,
    BTC: 300 * 10**8,
    ETH: 6_000 * 10**18,
    SOL: 60_000 * 10**9,
    XRP: 10_000_000 * 10**6,
    SHIB: 200_000_000_000 * 10**8,
    QTRA: 2_000_000 * 10**18,
}
"""What each market maker deposits."""

USER_FUNDS = {
    USDT: (500 * 10**6, 50_000 * 10**6),
    BTC: (10**6, 10**8),
    ETH: (10**17, 10**19),
    SOL: (10**9, 200 * 10**9),
    XRP: (500 * 10**6, 20_000 * 10**6),
    SHIB: (10_000_000 * 10**8, 2_000_000_000 * 10**8),
    QTRA: (100 * 10**18, 20_000 * 10**18),
}
"""Least and most that a user deposits, in smallest units."""

WALLETS = tuple(
    (
        wallet,
        one.symbol,
        kind,
        "simulated",
        one.symbol.lower(),
        f"simulated-{wallet}-{one.symbol.lower()}",
        one.decimals,
    )
    for wallet, kind in (("main", "hot"), ("cold", "cold"), ("house", "house"))
    for one in ASSETS
)
STAKING_CONTRACT = "0x" + "51" * 20

EARNING: dict[str, Any] = {
    "fee_tiers": (("0", 200, 1000), ("200000", 100, 800), ("1000000", -50, 600)),
    "staking_asset": "QTRA",
    "staking_funding_ppm": 200_000,
    "staking_payout_ppm": 500_000,
    "reward_cap": "1000000",
    "reward_cap_ppm": 10_000,
}
"""Volume earns tiers, the highest with a rebate; a fifth of the fee income goes into the rewards pot, and half of the
pot is paid out each day."""

OUTSIDE: dict[str, Any] = {
    "custody_wallets": WALLETS,
    "staking_contracts": ((STAKING_CONTRACT, "QTRA", 18, "simulated"),),
    "required_gates": (*GATES, *OUTSIDE_GATES),
}
"""Custody (a hot, a cold and a house wallet an asset) and the staking contract are simulated, and compared like real
ones."""

POLICY: dict[str, Any] = EARNING | OUTSIDE
"""What the demo's policy says beyond the defaults."""
