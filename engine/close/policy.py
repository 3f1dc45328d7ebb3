"""The policy of a book: what a close follows, digested into every day.

What belongs here: the fields, their defaults and checks, and the policy's hash.
What does not: where it is stored (see `engine.store.books`) and secrets of any kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from engine.accounts.rule import AccountRule
from engine.canonical import sha256_jcs
from engine.clock import CutOffRule
from engine.errors import ConfigError
from engine.fees.tiers import schedule_of
from engine.market.index import IndexRule
from engine.recon.sources import contracts_of, wallets_of
from engine.reserves.attestation import Address
from engine.screening.lists import ListSpec
from engine.screening.names import HIGHEST, LOWEST
from engine.staking.rule import StakingRule
from engine.valuation.method import Method

DEBITS_EQUAL_CREDITS = "debits_equal_credits"
FEE_CLEARING_SWEPT = "fee_clearing_swept"
MARKS_FRESH = "marks_fresh"
ENGINE_VS_LEDGER = "engine_vs_ledger"
REWARDS_AS_ACCRUED = "rewards_as_accrued"
LEDGER_VS_CUSTODY = "ledger_vs_custody"
CUSTODY_COVERS_LIABILITIES = "custody_covers_liabilities"
STAKING_VS_CHAIN = "staking_vs_chain"
TREES_EQUAL_CONTROL_TOTALS = "trees_equal_control_totals"
QUANTITY_IDENTITY = "quantity_identity"
VALUE_IDENTITY = "value_identity"
RESERVES_COVER_LIABILITIES = "reserves_cover_liabilities"

CORE_GATES = (
    DEBITS_EQUAL_CREDITS,
    FEE_CLEARING_SWEPT,
    MARKS_FRESH,
    ENGINE_VS_LEDGER,
    TREES_EQUAL_CONTROL_TOTALS,
)
"""Gates that every policy requires, in the order in which they are judged."""

GATES = (*CORE_GATES, QUANTITY_IDENTITY, VALUE_IDENTITY, REWARDS_AS_ACCRUED)
"""Gates that a new book requires unless its policy names others."""

OUTSIDE_GATES = (LEDGER_VS_CUSTODY, CUSTODY_COVERS_LIABILITIES, STAKING_VS_CHAIN)
"""Gates that a policy names once it names wallets or contracts."""


@dataclass(frozen=True)
class Policy:
    """What the close of a book follows, from a close date on.

    Attributes:
        reporting_currency: the asset in which everything is valued; its mark is 1.
        cutoff: when a close date ends, e.g. `24:00 UTC`.
        mark_max_age_s: oldest closing mark that counts as fresh, in seconds before the cut-off.
        required_gates: gates that must stand before a day seals.
        chunks: leaves that a balance is split into in the trees.
        tree_heights: heights that a tree may have, ascending.
        shard_digits: most hex digits of SHA-256(account) that name a shard of proofs, 0 to 4; fewer are used while a
            shard would hold fewer than some 64 accounts.
        step_timeout_s: hard limit of one step, in seconds.
        lease_ttl_s: how long a closer that stopped renewing keeps its lease, in seconds.
        screening_lists: sanctions lists, each `NAME:FORMAT`, that users are screened against; none: only the file
            `sanctions.txt` of account names in the book's folder, where there is one.
        screening_threshold: from which score on two names match, whole per cent.
        screening_action: what a hit does where the matrix of transitions allows it: `suspend` or `restrict`.
        screening_list_max_age_s: how far from the cut-off the stored reading of a list may lie, in seconds.
        personal_logins: whether people have database logins of their own, under which alone they may act.
        seal_deadline_s: how long a date may stay unsealed after its cut-off, or its reopening, in seconds.
        break_stuck_days: how many days a break may stay open before its owner is reminded.
        alert_pause_s: how long the same alert is not told again, in seconds.
        mark_sources: where a price comes from, the first that has a fresh one: `last_trade`, `index`, or the source of
            ticks loaded from a file.
        index_venues: (name, weight) of the venues that the index price is made of.
        index_min_sources: fewer venues with a fresh price make no index price.
        index_band_ppm: how far a venue's price may lie from the median; beyond, it is moved to the band's edge.
        index_max_age_s: oldest reading of a venue that counts.
        fee_tiers: (threshold, maker ppm, taker ppm) a tier over the 30-day volume, ascending from "0"; none: no tiers.
        staking_asset: what rewards are paid for and in; empty: no rewards.
        staking_funding_ppm: share of a day's fee income, at closing marks, that goes into the rewards pot.
        staking_payout_ppm: share of the pot that a day pays out.
        reward_cap: most that a day may pay out, in the staking asset; empty: no cap of this kind.
        reward_cap_ppm: most that a day may pay out, as a share of what is staked.
        kyc_required: whether an account that the engine opens awaits its review; otherwise it is active at once.
        obligation_deadline_s: within how many seconds a side effect of a transition must be acknowledged.
        holds_opened_by_two: kinds of holds that two people open.
        holds_released_by_two: kinds of holds that two people release, the first not the one who opened it.
        closure_days: how many days a request to close an account can be taken back.
        dust_value: what a closing account may give up per asset, in the reporting currency at the last closing mark.
        custody_wallets: (wallet, asset, kind, provider, coin, id, decimals) of every wallet that is read and compared.
        staking_contracts: (contract, asset, decimals[, provider]) of every contract whose total is compared.
        in_transit_max_days: close dates that a deposit or withdrawal may be in transit before it is a break.
        lot_method: which lot a disposal takes first: fifo, lifo, hifo, lofo or average.
        fee_treatment: `disposal`: a fee is an expense, paid at mark; `capitalised`: it is part of the price.
        deposit_basis: what deposited coins cost: `mark_at_arrival` or `closing_mark`.
        unpriced_basis: what comes before its asset's first tick, or with genesis and no lots, is worth: `first_mark` or
            `refuse`.
        reserve_addresses: addresses attested as reserves, `asset chain address method`; none: no ratio is judged.
        attestation_max_age_days: oldest checkpoint that an ownership proof may sign, in days before the cut-off.
        reserve_reading_max_age_s: how far from the cut-off an address's balance may be read, in seconds.
        marker_every_s: seconds between two comparisons of engine and ledger while trading goes on; 0: none.
        marker_deadline_s: seconds that settlement may take to reach a marker before its comparison counts as unknown.
        written: names of the fields that the policy was written down with; none: all of them. A policy of an
            earlier release keeps its text, and so its hash, when a later one adds a field with a default.
    """

    reporting_currency: str
    cutoff: str = "24:00 UTC"
    mark_max_age_s: int = 3600
    required_gates: tuple[str, ...] = GATES
    chunks: int = 2
    tree_heights: tuple[int, ...] = (10, 16, 20, 22, 24, 26)
    shard_digits: int = 3
    step_timeout_s: int = 1800
    lease_ttl_s: int = 30
    screening_lists: tuple[str, ...] = ()
    screening_threshold: int = 88
    screening_action: str = "suspend"
    screening_list_max_age_s: int = 172_800
    personal_logins: bool = False
    seal_deadline_s: int = 21_600
    break_stuck_days: int = 3
    alert_pause_s: int = 14_400
    mark_sources: tuple[str, ...] = ("last_trade",)
    index_venues: tuple[tuple[str, int], ...] = ()
    index_min_sources: int = 2
    index_band_ppm: int = 50_000
    index_max_age_s: int = 120
    fee_tiers: tuple[tuple[str, int, int], ...] = ()
    staking_asset: str = ""
    staking_funding_ppm: int = 0
    staking_payout_ppm: int = 1_000_000
    reward_cap: str = ""
    reward_cap_ppm: int = 1_000_000
    kyc_required: bool = False
    obligation_deadline_s: int = 60
    holds_opened_by_two: tuple[str, ...] = ()
    holds_released_by_two: tuple[str, ...] = ("break", "sanctions", "legal")
    closure_days: int = 30
    dust_value: str = "0"
    custody_wallets: tuple[tuple[str, str, str, str, str, str, int], ...] = ()
    staking_contracts: tuple[tuple[str, str, int] | tuple[str, str, int, str], ...] = ()
    in_transit_max_days: int = 2
    lot_method: str = "fifo"
    fee_treatment: str = "disposal"
    deposit_basis: str = "mark_at_arrival"
    unpriced_basis: str = "first_mark"
    reserve_addresses: tuple[str, ...] = ()
    attestation_max_age_days: int = 30
    reserve_reading_max_age_s: int = 3600
    marker_every_s: int = 300
    marker_deadline_s: int = 60
    written: frozenset[str] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        CutOffRule.parse(self.cutoff)
        lists = [ListSpec.parse(text).name for text in self.screening_lists]
        for address in self.reserve_addresses:
            Address.parse(address)
        problems = [
            name
            for name, fine in (
                ("reporting_currency", 0 < len(self.reporting_currency) <= 32),
                ("mark_max_age_s", self.mark_max_age_s > 0),
                ("required_gates", set(CORE_GATES) <= set(self.required_gates)),
                ("chunks", 1 <= self.chunks <= 16),
                ("tree_heights", list(self.tree_heights) == sorted(set(self.tree_heights)) and self.tree_heights != ()),
                ("shard_digits", 0 <= self.shard_digits <= 4),
                ("step_timeout_s", 0 < self.step_timeout_s <= 86_400),
                ("screening_lists", len(set(lists)) == len(lists)),
                ("screening_threshold", LOWEST <= self.screening_threshold <= HIGHEST),
                ("screening_action", self.screening_action in ("suspend", "restrict")),
                ("screening_list_max_age_s", self.screening_list_max_age_s > 0),
                ("lease_ttl_s", 1 <= self.lease_ttl_s <= 3600),
                ("in_transit_max_days", 0 < self.in_transit_max_days <= 365),
                ("seal_deadline_s", 0 < self.seal_deadline_s <= 604_800),
                ("break_stuck_days", 0 < self.break_stuck_days <= 365),
                ("marker_every_s", 0 <= self.marker_every_s <= 86_400),
                ("marker_deadline_s", 0 < self.marker_deadline_s <= 3600),
                ("alert_pause_s", 0 <= self.alert_pause_s <= 604_800),
                ("lot_method", self.lot_method in {method.value for method in Method}),
                ("fee_treatment", self.fee_treatment in ("disposal", "capitalised")),
                ("deposit_basis", self.deposit_basis in ("mark_at_arrival", "closing_mark")),
                ("unpriced_basis", self.unpriced_basis in ("first_mark", "refuse")),
                ("reserve_addresses", len(set(self.reserve_addresses)) == len(self.reserve_addresses)),
                ("attestation_max_age_days", 0 < self.attestation_max_age_days <= 366),
                ("reserve_reading_max_age_s", 0 < self.reserve_reading_max_age_s <= 86_400),
                (
                    "required_gates (addresses are attested: reserves_cover_liabilities is one of them)",
                    not self.reserve_addresses or RESERVES_COVER_LIABILITIES in self.required_gates,
                ),
            )
            if not fine
        ]
        if problems:
            raise ConfigError(f"the policy's {', '.join(problems)} cannot be used", next_step="correct the policy file")
        schedule_of(self.fee_tiers)
        AccountRule.of(
            self.obligation_deadline_s,
            (*self.holds_opened_by_two, *self.holds_released_by_two),
            self.closure_days,
            self.dust_value,
        )
        wallets_of(self.custody_wallets)
        contracts_of(self.staking_contracts)
        IndexRule.of(
            self.mark_sources, self.index_venues, self.index_min_sources, self.index_band_ppm, self.index_max_age_s
        )
        StakingRule.of(
            self.staking_asset, self.staking_funding_ppm, self.staking_payout_ppm, self.reward_cap, self.reward_cap_ppm
        )

    def as_dict(self) -> dict[str, Any]:
        """The policy as canonical JSON has it."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "written"}
        written = plain.keys() if self.written is None else self.written
        return {"v": "policy/1"} | {k: _listed(v) for k, v in plain.items() if k in written}

    @property
    def sha256(self) -> str:
        """Hex SHA-256 over the policy's canonical JSON."""
        return sha256_jcs(self.as_dict())

    @property
    def cutoff_rule(self) -> CutOffRule:
        """The cut-off as a rule of the clock."""
        return CutOffRule.parse(self.cutoff)

    @property
    def books_lots(self) -> bool:
        """Whether lots and P&L are kept: a policy of before there were any does not ask for their gates."""
        return bool({QUANTITY_IDENTITY, VALUE_IDENTITY} & set(self.required_gates))

    @classmethod
    def parse(cls, value: Any) -> Policy:
        """Read a stored policy or a policy file.

        Raises:
            ConfigError: a key is unknown or missing, or a value is of the wrong kind.
        """
        if not isinstance(value, dict) or value.get("v") != "policy/1":
            raise ConfigError("this is not a policy of version policy/1")
        given: dict[str, Any] = {k: _tupled(v) for k, v in value.items() if k != "v"}
        unknown = sorted(given.keys() - ({f.name for f in fields(cls)} - {"written"}))
        if unknown:
            raise ConfigError(f"the policy has unknown keys: {', '.join(unknown)}")
        for one in fields(cls):
            if one.name in given and not _is_of(given[one.name], str(one.type)):
                raise ConfigError(
                    f"the policy's {one.name} is {str(value[one.name])[:60]!r}",
                    rule=f"it is {one.type}; a tuple is an array in JSON",
                    next_step="correct the policy file",
                )
        try:
            return cls(**given, written=frozenset(given))
        except TypeError as error:
            raise ConfigError(f"the policy cannot be read: {error}") from None


_KINDS = {"str": str, "int": int, "bool": bool}


def _is_of(value: Any, kind: str) -> bool:
    """Whether a value is of a field's kind: a text "false" would count as yes. Rows are held by whoever reads them."""
    if kind in _KINDS:
        return type(value) is _KINDS[kind]
    of_one = _KINDS.get(kind.removeprefix("tuple[").removesuffix(", ...]"), tuple)
    return isinstance(value, tuple) and all(type(one) is of_one for one in value)


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(one) for one in value) if isinstance(value, list) else value
