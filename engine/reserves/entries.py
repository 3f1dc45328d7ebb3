"""The entries that a manifest lists: assets, reserves, other liabilities, receivables, and the digest of the verdicts.

What belongs here: one record type per list, its canonical object and its strict reading.
What does not: the manifest that holds the lists (see `manifest`), and how a tree gets its root (see `tree`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.canonical import jcs, sha256_jcs
from engine.reserves.fields import (
    MAX_HEIGHT,
    MAX_SAFE_INTEGER,
    check_asset,
    check_hex,
    check_integer,
    check_text,
    exact_object,
    parse_amount,
)
from engine.reserves.merkle import merkle_root

_LONGEST_TEXT = 1024


@dataclass(frozen=True)
class AssetEntry:
    """One asset's liabilities: the root and total of its sum tree. `root` is hex, `total` in smallest units."""

    asset: str
    decimals: int
    height: int
    root: str
    total: int

    def as_dict(self) -> dict[str, Any]:
        """The entry as it stands in the manifest."""
        return {
            "asset": self.asset,
            "decimals": self.decimals,
            "height": self.height,
            "root": self.root,
            "total": str(self.total),
        }

    @classmethod
    def parse(cls, value: object, *, where: str) -> AssetEntry:
        """Read an entry strictly.

        Raises:
            FormatError: a key is unknown or missing, or a value breaks its rule.
        """
        entry = exact_object(value, ("asset", "decimals", "height", "root", "total"), where=where)
        return cls(
            asset=check_asset(entry["asset"], where=where),
            decimals=check_integer(entry["decimals"], 0, MAX_SAFE_INTEGER, where=f"{where}: decimals"),
            height=check_integer(entry["height"], 1, MAX_HEIGHT, where=f"{where}: height"),
            root=check_hex(entry["root"], 32, where=f"{where}: root"),
            total=parse_amount(entry["total"], where=f"{where}: total"),
        )


@dataclass(frozen=True)
class ReserveEntry:
    """One attested address. `amount` in smallest units, `height` of the block read, `ownership` the kind of proof."""

    asset: str
    chain: str
    address: str
    amount: int
    height: int
    block_hash: str
    ownership: str

    @property
    def sort_key(self) -> tuple[str, str, str]:
        """Where the entry stands in the list."""
        return self.asset, self.chain, self.address

    def as_dict(self) -> dict[str, Any]:
        """The entry as it stands in the manifest."""
        return {
            "asset": self.asset,
            "chain": self.chain,
            "address": self.address,
            "amount": str(self.amount),
            "height": self.height,
            "block_hash": self.block_hash,
            "ownership": self.ownership,
        }

    @classmethod
    def parse(cls, value: object, *, where: str) -> ReserveEntry:
        """Read an entry strictly.

        Raises:
            FormatError: a key is unknown or missing, or a value breaks its rule.
        """
        keys = ("asset", "chain", "address", "amount", "height", "block_hash", "ownership")
        entry = exact_object(value, keys, where=where)
        return cls(
            asset=check_asset(entry["asset"], where=where),
            chain=check_text(entry["chain"], _LONGEST_TEXT, where=f"{where}: chain"),
            address=check_text(entry["address"], _LONGEST_TEXT, where=f"{where}: address"),
            amount=parse_amount(entry["amount"], where=where),
            height=check_integer(entry["height"], 0, MAX_SAFE_INTEGER, where=f"{where}: height"),
            block_hash=check_text(entry["block_hash"], _LONGEST_TEXT, where=f"{where}: block_hash"),
            ownership=check_text(entry["ownership"], _LONGEST_TEXT, where=f"{where}: ownership"),
        )


@dataclass(frozen=True)
class OtherLiability:
    """A house account of class other_liability, in smallest units."""

    account: str
    asset: str
    amount: int

    @property
    def sort_key(self) -> tuple[str, str]:
        """Where the entry stands in the list."""
        return self.asset, self.account

    def as_dict(self) -> dict[str, Any]:
        """The entry as it stands in the manifest."""
        return {"account": self.account, "amount": str(self.amount), "asset": self.asset}

    @classmethod
    def parse(cls, value: object, *, where: str) -> OtherLiability:
        """Read an entry strictly.

        Raises:
            FormatError: a key is unknown or missing, or a value breaks its rule.
        """
        entry = exact_object(value, ("account", "amount", "asset"), where=where)
        return cls(
            account=check_text(entry["account"], _LONGEST_TEXT, where=f"{where}: account"),
            asset=check_asset(entry["asset"], where=where),
            amount=parse_amount(entry["amount"], where=where),
        )


@dataclass(frozen=True)
class Receivable:
    """What customers owe in one asset, gross, in smallest units."""

    asset: str
    amount: int

    def as_dict(self) -> dict[str, Any]:
        """The entry as it stands in the manifest."""
        return {"amount": str(self.amount), "asset": self.asset}

    @classmethod
    def parse(cls, value: object, *, where: str) -> Receivable:
        """Read an entry strictly.

        Raises:
            FormatError: a key is unknown or missing, or a value breaks its rule.
        """
        entry = exact_object(value, ("amount", "asset"), where=where)
        return cls(asset=check_asset(entry["asset"], where=where), amount=parse_amount(entry["amount"], where=where))


@dataclass(frozen=True)
class GateVerdict:
    """One gate's verdict for this day, as the seal saw it. `waiver` names the waiver in force, or is None."""

    gate: str
    scope: str
    verdict: str
    waiver: str | None = None


def verdicts_sha256(verdicts: Iterable[GateVerdict]) -> str:
    """Hex digest of the verdicts sorted by gate and scope, whatever order they come in.

    Raises:
        ValueError: one gate and scope has two verdicts.
    """
    ordered = sorted(verdicts, key=lambda one: (one.gate.encode(), one.scope.encode()))
    if len({(one.gate, one.scope) for one in ordered}) != len(ordered):
        raise ValueError("two verdicts for one gate and scope")
    return sha256_jcs(
        [{"gate": one.gate, "scope": one.scope, "verdict": one.verdict, "waiver": one.waiver} for one in ordered]
    )


def snapshot_root(assets: Iterable[AssetEntry]) -> str:
    """Hex RFC 6962 root over the asset entries' JCS, in the order given."""
    return merkle_root(jcs(entry.as_dict()) for entry in assets).hex()


def reserves_root(reserves: Iterable[ReserveEntry]) -> str:
    """Hex RFC 6962 root over the reserve entries' JCS, in the order given."""
    return merkle_root(jcs(entry.as_dict()) for entry in reserves).hex()
