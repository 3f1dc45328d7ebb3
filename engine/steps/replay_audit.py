"""The replay audit: a sealed day computed again from the order journal and its evidence, with no database.

What belongs here: the day's journals, balances, totals, books hash and roots, recomputed and compared.
What does not: the walk of the journal (see `replayed_day`), and whether a pack is anchored (see the verifier).

From the journal alone come every trade, transfer, customer balance and the engine's own balances. From the packs comes
what no engine event gives: the close's own journals, marks, readings, the policy's digest. Sweeps of fees are checked
against the trades by user and role; other journals of the close are checked for form (balanced, house accounts, one
instant before the cut-off) and counted. House balances that the day opened with are recomputed where the packs of all
earlier days are at hand, and else taken from the day's own pack; either way the books hash holds them to the seal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from engine.canonical import row_hash, table_digest
from engine.clock import from_day_number, from_us, iso_s, iso_us, parse_close_date, to_us
from engine.close.books import TABLES, books_sha256
from engine.errors import ComplineError, InputError
from engine.exchange.events import Trade
from engine.exchange.state import Market, Registry
from engine.ledger.journal import FEE_CLEARING, Journal, check_balanced
from engine.money import MAX_DECIMALS, from_units, text_of
from engine.reserves.build import TreeKernel, build_trees
from engine.reserves.key_file import parse_published_keys
from engine.reserves.keys import KeyRing, ReserveKeys
from engine.reserves.manifest import Manifest, SignedManifest, verify_manifest
from engine.reserves.signing import key_id
from engine.reserves.tree import TreePolicy
from engine.steps.engine_balances import balances_of
from engine.steps.pack import Pack
from engine.steps.replayed_day import Balances, Replayed, replay_to
from engine.store.settlement_rows import tick_of


@dataclass
class Comparison:
    """One thing computed here and as it was sealed."""

    what: str
    here: str
    sealed: str

    @property
    def equal(self) -> bool:
        """Whether they are one."""
        return self.here == self.sealed


@dataclass
class Audit:
    """What a replay audit found, in the order in which it was compared.

    Attributes:
        notes: what was taken from the evidence and not recomputed, or not looked at.
    """

    close_date: str
    version: int
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(self, what: str, here: object, sealed: object) -> None:
        """Compare two values by their text."""
        self.comparisons.append(Comparison(what, str(here), str(sealed)))

    @property
    def first_difference(self) -> Comparison | None:
        """The first thing that is not as it was sealed."""
        return next((one for one in self.comparisons if not one.equal), None)


def audit(
    journal: Path,
    packs: Sequence[Pack],
    *,
    published_keys: str | None = None,
    master: ReserveKeys | None = None,
    dumps: Sequence[Mapping[str, Any]] = (),
    scratch: Path | None = None,
) -> Audit:
    """Compute a day again and compare it with its manifest.

    Args:
        journal: the order journal.
        packs: of the date, last, and of earlier dates, oldest first, as far as they are at hand.
        published_keys: text of the exchange's published key file, from elsewhere.
        master: the master key, for the roots.
        dumps: entries recomputed from auditor dumps, for the roots without the master key.
        scratch: an empty folder for trees, where the master key is given.

    Raises:
        ComplineError: the journal or a pack cannot be read, or the manifest is not signed by the key.
    """
    pack = packs[-1]
    manifest = _trusted(pack, published_keys)
    header = manifest.header
    found = Audit(header.close_date, header.version)
    if published_keys is None:
        found.notes.append("the manifest's signature was not checked: no key from elsewhere (--key)")
    day = parse_close_date(header.close_date)
    here = replay_to(journal, day, to_us(datetime.fromisoformat(header.snapshot_at)))
    found.compare("engine sequence of the cut-off", here.barrier_seq, header.barrier_seq)
    found.compare("instant of the cut-off", iso_s(from_us(here.cutoff_us)), header.snapshot_at)
    own = pack.close_journals
    _check_close(found, own, here)
    opening = _opening(found, packs, here, day)
    closing = _closing(here, opening, own)
    _check_marks(found, pack.rows("marks.json"), here)
    tables = pack.rows("books.json")
    digests = {
        "journals": [*here.hashes, *(one.row_hash() for one in own)],
        "balances": [row_hash((account, asset, units)) for (account, asset), units in closing.items() if units],
        "marks": [row_hash((m["asset"], m["price"], m["source"], m["at"])) for m in pack.rows("marks.json")],
        "readings": [row_hash((r["source"], r["subject"], r["at"], r["sha256"])) for r in pack.rows("readings.json")],
        "engine_balances": [
            row_hash((b.account, b.asset, b.available, b.locked, b.staked, b.in_transit))
            for b in balances_of(here.engine)
        ],
    }
    for name in TABLES:
        found.compare(f"rows of {name}", len(digests[name]), tables[name]["rows"])
        found.compare(f"digest of {name}", table_digest(digests[name]), tables[name]["sha256"])
    _compare_totals(found, manifest, pack, closing, here)
    said = {name: table_digest(rows) for name, rows in digests.items()}
    ours = books_sha256(header.close_date, header.version, header.barrier_seq, header.policy_sha256, said)
    found.compare("books hash", ours, header.books_sha256)
    _compare_roots(found, manifest, pack, here, master, dumps, scratch)
    return found


def _trusted(pack: Pack, published_keys: str | None) -> Manifest:
    if published_keys is None:
        return pack.manifest
    key = parse_published_keys(published_keys).manifest_key
    signature = pack.files.get("manifest.sig", b"").decode("ascii", "replace").strip()
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        raise InputError("manifest.sig of the pack is not hex", next_step="get the pack again") from None
    return verify_manifest(SignedManifest(pack.files["manifest.json"], raw, key_id(key)), key)


def _is_customer(account: str, here: Replayed) -> bool:
    name, _, part = account.partition(":")
    return part in ("", "staked", "in_transit") and name in here.engine.registry.account_by_name


def _check_close(found: Audit, own: Sequence[Journal], here: Replayed) -> None:
    """The close's own journals: their form, and fees against the trades, by user and role."""
    kinds = Counter(one.kind for one in own)
    swept: Counter[tuple[str, str, str]] = Counter()
    bad = []
    for one in own:
        try:
            check_balanced(one)
        except ComplineError as error:
            bad.append(error.what)
        touched = [leg.account for leg in one.legs if one.origin == "close" and _is_customer(leg.account, here)]
        if touched or (one.origin == "close" and one.effective_us != here.cutoff_us - 1):
            bad.append(f"{one.reference_id}: a customer's account, or another instant")
        if one.kind == "fee_accrual":
            parts = one.reference_id.split(":")
            if len(parts) == 5:
                swept[parts[1], parts[2], parts[3]] -= sum(leg.units for leg in one.legs if leg.account == FEE_CLEARING)
    found.compare("form of the close's journals", ", ".join(bad) or "sound", "sound")
    keys = sorted(key for key in {*swept, *here.fees} if swept[key] != here.fees.get(key, 0))
    off = ", ".join(f"{' '.join(key)}: charged {here.fees.get(key, 0)}, swept {swept[key]}" for key in keys[:5])
    found.compare("fees swept, by user, asset and role", off or "as charged", "as charged")
    others = {kind: count for kind, count in sorted(kinds.items()) if kind != "fee_accrual"}
    if others:
        found.notes.append(
            "journals of the close taken from the evidence, checked for form alone: "
            + ", ".join(f"{count} {kind}" for kind, count in others.items())
        )


def _check_marks(found: Audit, marks: Sequence[Mapping[str, str]], here: Replayed) -> None:
    """Marks that say that they are a market's last trade: its price and time, from the journal."""
    registry = here.engine.registry
    off, others = [], []
    for mark in marks:
        if (mark["source"], mark["price"]) == ("reporting_currency", "1"):
            continue
        source, _, name = mark["source"].partition(":")
        market = registry.market_by_symbol.get(name)
        trade = here.last_trades.get(market.market) if market else None
        if source != "last_trade":
            others.append(mark["asset"])
        elif market is None or trade is None or _mark_of(trade, market, registry) != (mark["price"], mark["at"]):
            off.append(mark["asset"])
    found.compare("marks that are last trades", ", ".join(off) or "as traded", "as traded")
    if others:
        found.notes.append(f"marks of other sources, taken from the evidence: {', '.join(others)}")


def _mark_of(trade: Trade, market: Market, registry: Registry) -> tuple[str, str]:
    tick = tick_of(market, registry)
    return text_of(from_units(trade.price_ticks * tick, MAX_DECIMALS)), iso_us(from_us(trade.effective_us))


def _opening(found: Audit, packs: Sequence[Pack], here: Replayed, day: date) -> Balances:
    """What the day opened with beside customers' own events, recomputed where every earlier pack is at hand.

    Returns:
        House balances, and what corrections moved on customers' accounts before.
    """
    stated = {
        (one["account"], one["asset"]): int(one["amount"]) for one in packs[-1].rows("opening_house_balances.json")
    }
    first = from_day_number(here.engine.first_day)
    wanted = [str(first + timedelta(days=n)) for n in range((day - first).days)]
    there = [pack.manifest.header.close_date for pack in packs[:-1]]
    if there != wanted:
        found.notes.append(
            "house balances at the opening are those that the pack states, and corrections of customers' accounts those"
            f" of its own date: packs of {len(wanted) - len(there)} earlier dates are not at hand"
        )
        return stated
    moved: defaultdict[tuple[str, str], int] = defaultdict(int)
    for key, units in here.balances.items():
        moved[key] += units - here.today.get(key, 0)
    for pack in packs[:-1]:
        for one in pack.close_journals:
            for leg in one.legs:
                moved[leg.account, leg.asset] += leg.units
    computed = {key: units for key, units in moved.items() if units and not _is_customer(key[0], here)}
    corrected = _corrections(packs[:-1], here)
    off = [f"{a} {c}" for a, c in sorted(computed.keys() | stated.keys()) if computed.get((a, c)) != stated.get((a, c))]
    found.compare("house balances at the opening", ", ".join(off[:5]) or "as stated", "as stated")
    return computed | corrected


def _corrections(packs: Sequence[Pack], here: Replayed) -> Balances:
    """What journals without an engine event moved on customers' accounts: corrections of the ledger's side."""
    moved: defaultdict[tuple[str, str], int] = defaultdict(int)
    for pack in packs:
        for one in pack.close_journals:
            for leg in one.legs:
                if _is_customer(leg.account, here):
                    moved[leg.account, leg.asset] += leg.units
    return dict(moved)


def _closing(here: Replayed, opening: Balances, own: Sequence[Journal]) -> Balances:
    closing: defaultdict[tuple[str, str], int] = defaultdict(int)
    for key, units in here.balances.items():
        if _is_customer(key[0], here):
            closing[key] += units
    for key, units in opening.items():
        closing[key] += units
    for key, units in here.today.items():
        if not _is_customer(key[0], here):
            closing[key] += units
    for one in own:
        for leg in one.legs:
            closing[leg.account, leg.asset] += leg.units
    return dict(closing)


def _compare_totals(found: Audit, manifest: Manifest, pack: Pack, closing: Balances, here: Replayed) -> None:
    sums: defaultdict[str, int] = defaultdict(int)
    for (account, asset), units in closing.items():
        if _is_customer(account, here):
            sums[asset] += units
    sealed = {entry.asset: entry.total for entry in manifest.assets}
    for asset in sorted({*sealed, *(asset for asset, units in sums.items() if units)}):
        found.compare(f"owed to customers in {asset}", sums.get(asset, 0), sealed.get(asset, 0))
    for other in manifest.other_liabilities:
        found.compare(f"{other.account} {other.asset}", closing.get((other.account, other.asset), 0), other.amount)
    for lent in manifest.receivables:
        debts = [u for (a, c), u in closing.items() if c == lent.asset and a.startswith("customer_receivable:")]
        owed = -sum(units for units in debts if units < 0)
        found.compare(f"customers owe in {lent.asset}", owed, lent.amount)


def _compare_roots(
    found: Audit,
    manifest: Manifest,
    pack: Pack,
    here: Replayed,
    master: ReserveKeys | None,
    dumps: Sequence[Mapping[str, Any]],
    scratch: Path | None,
) -> None:
    if master is None:
        entries = {one.asset: one for one in manifest.assets}
        for dump in dumps:
            entry = entries.get(str(dump["asset"]))
            found.compare(f"dump of {dump['asset']}", dump, entry.as_dict() if entry else "no such tree")
        if missing := sorted(entries.keys() - {str(dump["asset"]) for dump in dumps}):
            found.notes.append(
                f"roots of {', '.join(missing)} were not computed: neither master key nor dump was given"
            )
        return
    assert scratch is not None
    policy = pack.rows("policy.json")
    registry = here.engine.registry
    lines = []
    totals: defaultdict[str, int] = defaultdict(int)
    for one in balances_of(here.engine):
        units = one.available + one.locked + one.staked + one.in_transit
        if units and one.account in registry.account_by_name:
            number = registry.asset_by_symbol[one.asset].asset
            lines.append((one.account, number, units))
            totals[one.asset] += units
    built = build_trees(
        scratch,
        [b"%s\t%d\t%d\n" % (account.encode(), number, units) for account, number, units in sorted(lines)],
        {asset.asset: (asset.symbol, asset.decimals) for asset in registry.assets.values()},
        holdings=len(lines),
        control_totals=dict(totals),
        ctx=manifest.header.ctx,
        ring=KeyRing(master, manifest.header.exchange),
        policy=TreePolicy(chunks=policy["chunks"], heights=tuple(policy["tree_heights"])),
        kernel=TreeKernel.AUTO,
    )
    ours = {one.entry.asset: one.entry.as_dict() for one in built}
    for entry in manifest.assets:
        found.compare(f"tree of {entry.asset}", ours.pop(entry.asset, "none"), entry.as_dict())
    found.compare("trees beyond the manifest's", ", ".join(sorted(ours)) or "none", "none")
