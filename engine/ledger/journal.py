"""A journal: one balanced event of the ledger, its legs and its canonical hash.

What belongs here: the records, the names of house accounts, and the hash that the books are made of.
What does not: which legs an engine event has (see `engine.exchange.postings`), and writing them (see `engine.store`).

Signs: positive is what the house owes. A customer's balance is positive, a custody account's is negative.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import date

from engine.canonical import row_bytes
from engine.clock import from_us, iso_us
from engine.errors import LedgerRefusedError

ADJUSTMENT_EXPENSE = "adjustment_expense"
DEPOSITS_UNALLOCATED = "deposits_unallocated"
FEE_CLEARING = "fee_clearing"
FEE_INCOME = "fee_income"
HOUSE_CAPITAL = "house_capital"
INSURANCE_FUND = "insurance_fund"
NETWORK_FEE_EXPENSE = "network_fee_expense"
OPENING_EQUITY = "opening_equity"
REWARDS_PAYABLE = "rewards_payable"
SUSPENSE = "suspense"
NOT_FOR_USERS = frozenset({"custody", "house", "rounding", SUSPENSE})
"""Names that a user could have and the house has; of the house's other names none is a user's, for its underscore."""


def custody(wallet: str) -> str:
    """The house account that mirrors a custody wallet."""
    return f"custody:{wallet}"


def in_transit(account: str) -> str:
    """A user's sub-account of withdrawals debited and not yet confirmed."""
    return f"{account}:in_transit"


def customer_receivable(account: str) -> str:
    """The house account of what a user owes since a deposit was reversed that was spent."""
    return f"customer_receivable:{account}"


def staked(account: str) -> str:
    """A user's sub-account of coins that are staked."""
    return f"{account}:staked"


@dataclass(frozen=True, slots=True)
class Leg:
    """A signed amount on one account.

    Attributes:
        account: name of a user, house or sub-account.
        asset: symbol.
        units: smallest units, never zero.
    """

    account: str
    asset: str
    units: int


@dataclass(frozen=True, slots=True)
class Journal:
    """One balanced event.

    Attributes:
        kind: what it is (`trade`, `deposit`, `fee_accrual`, …).
        reference_type: what `reference_id` names; the two are unique together.
        reference_id: the event's identity outside the ledger.
        engine_seq: the engine's sequence, none for journals of the close.
        effective_us: when it took effect, microseconds since 1970.
        close_date: the business date it belongs to.
        origin: `engine`, `genesis`, `close` or `correction`.
        reason: why, in words.
        legs: its signed legs; Σ per asset is zero.
        actor: who decided it, where that is not who posts it.
    """

    kind: str
    reference_type: str
    reference_id: str
    engine_seq: int | None
    effective_us: int
    close_date: date
    origin: str
    reason: str
    legs: tuple[Leg, ...]
    actor: str | None = None

    def row_hash(self) -> bytes:
        """SHA-256 over the journal and its sorted legs, as the books hash reads it (32 bytes)."""
        head = (
            self.kind,
            self.reference_type,
            self.reference_id,
            self.engine_seq,
            iso_us(from_us(self.effective_us)),
            self.origin,
        )
        legs = sorted(f"{leg.account}\t{leg.asset}\t{leg.units}" for leg in self.legs)
        fields = [*head, *(part for leg in legs for part in leg.split("\t"))]
        return hashlib.sha256(row_bytes(fields)).digest()


def check_balanced(journal: Journal) -> None:
    """Refuse a journal before the database has to.

    Raises:
        LedgerRefusedError: a leg is zero, or an asset's legs do not sum to zero.
    """
    sums: defaultdict[str, int] = defaultdict(int)
    for leg in journal.legs:
        if leg.units == 0:
            raise LedgerRefusedError(f"{journal.reference_type} {journal.reference_id}: a leg of zero {leg.asset}")
        sums[leg.asset] += leg.units
    for asset, off in sums.items():
        if off:
            raise LedgerRefusedError(
                f"{journal.reference_type} {journal.reference_id} is off by {off} smallest units of {asset}",
                rule="every journal sums to zero per asset",
            )
