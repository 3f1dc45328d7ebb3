"""Staking rewards: what the policy says about the pot.

What belongs here: reading and refusing those fields.
What does not: the shares (one function in the database), and stakes (the engine's commands).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from engine.errors import ConfigError, InputError
from engine.money import parse_decimal

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class StakingRule:
    """How a pot is funded and paid out.

    Attributes:
        asset: staked, and paid.
        funding_ppm: share of a day's fee income that goes into the pot.
        payout_ppm: share of the pot that a day pays out.
        cap: most that a day pays out, in the asset; none: no cap.
        cap_ppm: most that a day pays out, as a share of what is staked at its end.
    """

    asset: str
    funding_ppm: int
    payout_ppm: int
    cap: Decimal | None
    cap_ppm: int

    @classmethod
    def of(cls, asset: str, funding_ppm: int, payout_ppm: int, cap: str, cap_ppm: int) -> StakingRule | None:
        """The rule, none where the book pays no rewards.

        Raises:
            ConfigError: a share lies outside 0 to 100 %, or the cap is no amount.
        """
        for name, share in (("staking_funding_ppm", funding_ppm), ("staking_payout_ppm", payout_ppm)):
            if type(share) is not int or not 0 <= share <= MILLION:
                raise ConfigError(f"the policy's {name} is {share!r}", rule="0 to 1,000,000 parts per million")
        if type(cap_ppm) is not int or cap_ppm < 0:
            raise ConfigError(f"the policy's reward_cap_ppm is {cap_ppm!r}", rule="0 or more parts per million")
        try:
            most = parse_decimal(cap, record="the policy's reward_cap") if cap else None
        except InputError as error:
            raise ConfigError(error.what, rule=error.rule, next_step="correct the policy file") from None
        if most is not None and most < 0:
            raise ConfigError(f"the policy's reward_cap is {cap}", rule="a cap is 0 or more")
        return cls(asset, funding_ppm, payout_ppm, most, cap_ppm) if asset else None
