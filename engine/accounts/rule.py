"""What the policy says of accounts, checked.

What belongs here: the range of each value. What does not: applying it (the database does, and reads the same policy).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from engine.errors import ConfigError, InputError
from engine.money import parse_decimal

HOLD_KINDS = ("break", "sanctions", "dispute", "legal", "closure")


@dataclass(frozen=True)
class AccountRule:
    """Deadlines and limits of the lifecycle.

    Attributes:
        obligation_deadline_s: seconds in which a side effect is acknowledged.
        by_two: kinds of holds that need two people.
        closure_days: how long a request to close can be taken back.
        dust_value: what a closing account may give up per asset, in the reporting currency.
    """

    obligation_deadline_s: int
    by_two: tuple[str, ...]
    closure_days: int
    dust_value: Decimal

    @classmethod
    def of(cls, obligation_deadline_s: int, by_two: tuple[str, ...], closure_days: int, dust_value: str) -> AccountRule:
        """Read the policy's values.

        Raises:
            ConfigError: one of them cannot be used.
        """
        try:
            dust = parse_decimal(dust_value, record="dust_value")
        except InputError as error:
            raise ConfigError(f"the policy's dust_value cannot be used: {error.what}") from None
        problems = [
            name
            for name, fine in (
                ("obligation_deadline_s", 1 <= obligation_deadline_s <= 86_400),
                ("holds_opened_by_two or holds_released_by_two", set(by_two) <= set(HOLD_KINDS)),
                ("closure_days", 0 <= closure_days <= 365),
                ("dust_value", dust >= 0),
            )
            if not fine
        ]
        if problems:
            raise ConfigError(f"the policy's {', '.join(problems)} cannot be used", next_step="correct the policy file")
        return cls(obligation_deadline_s, by_two, closure_days, dust)
