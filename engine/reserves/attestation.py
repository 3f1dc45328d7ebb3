"""Attested reserves: the addresses that a policy names, and the documents that are captured about them.

What belongs here: reading both strictly. Source: RESERVES.md, Reserves.
What does not: who signed (see `ownership`), what an address comes to (see `attested`), where readings are stored (see
`engine.store.attestations`), and asking a chain (see `engine.gateways`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from engine.canonical import jcs
from engine.reserves.checkpoint import parse_checkpoint
from engine.reserves.fields import (
    MAX_SAFE_INTEGER,
    FormatError,
    check_asset,
    check_exchange,
    check_hex,
    check_instant,
    check_integer,
    check_text,
    exact_object,
    load_strict_json,
    parse_amount,
)

LONGEST = 65536
_PLAIN = re.compile(r"[!-~]{1,128}")


class AttestationError(FormatError):
    """A document that attests nothing."""


class Method(StrEnum):
    """How control of an address is shown."""

    EIP191 = "eip191"
    EIP1271 = "eip1271"
    BIP322 = "bip322"
    CUSTODIAN = "custodian"


@dataclass(frozen=True, order=True)
class Address:
    """One attested address of the policy: `asset chain address method`, for a custodian `custodian:<key in hex>`."""

    asset: str
    chain: str
    address: str
    method: Method
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an entry of the policy's `reserve_addresses`.

        Raises:
            AttestationError: it is none.
        """
        parts = text.split(" ")
        try:
            asset, chain, address, how = parts
            method, _, key = how.partition(":")
            known = Method(method)
        except ValueError:
            raise AttestationError(f"reserve address {text[:80]!r}", rule="asset, chain, address, method") from None
        check_asset(asset, where="reserve address")
        if not _PLAIN.fullmatch(chain) or not _PLAIN.fullmatch(address) or len(f"{asset}{chain}{address}") > 110:
            raise AttestationError(f"reserve address {text[:80]!r}", rule="printable characters, at most 110")
        if (known == Method.CUSTODIAN) != bool(key):
            raise AttestationError(f"reserve address {text[:80]!r}", rule="a custodian, and no other, has a key")
        if key:
            check_hex(key, 32, where="custodian's key")
        return cls(asset, chain, address, known, key)

    @property
    def place(self) -> str:
        """`chain:address`, as readings of ownership name it."""
        return f"{self.chain}:{self.address}"


@dataclass(frozen=True)
class Document:
    """A captured document: its kind, its fields, and the subject that its reading is stored under."""

    kind: str
    fields: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """What the reading is of."""
        place = f"{self.fields['chain']}:{self.fields['address']}"
        return f"ownership:{place}" if self.kind == "ownership" else f"{self.kind}:{self.fields['asset']}:{place}"

    @property
    def at(self) -> str | None:
        """The instant that the document states; none for an ownership proof, whose age is its checkpoint's."""
        return self.fields.get("at")

    def to_bytes(self) -> bytes:
        """Canonical JSON: what is stored."""
        return jcs(dict(self.fields))


_BALANCE = ("v", "exchange", "asset", "chain", "address", "amount", "height", "block_hash", "at")
_OWNERSHIP = ("v", "exchange", "chain", "address", "method", "checkpoint", "signature", "answer")
_STATEMENT = ("v", "exchange", "asset", "chain", "address", "amount", "at", "checkpoint", "signature")
_ANSWER = ("height", "block_hash", "data", "result")
_KINDS = {
    "por-balance/1": ("balance", _BALANCE),
    "por-ownership/1": ("ownership", _OWNERSHIP),
    "por-statement/1": ("statement", _STATEMENT),
}


def parse_documents(data: bytes, *, where: str) -> list[Document]:
    """Read a file of one document or a list of them.

    Raises:
        AttestationError: it is anything else.
    """
    value = load_strict_json(data, longest=64 * LONGEST, where=where)
    return [_document(one, where) for one in (value if isinstance(value, list) else [value])]


def parse_document(data: bytes, *, where: str) -> Document:
    """Read one stored document."""
    return _document(load_strict_json(data, longest=LONGEST, where=where), where)


def _document(value: object, where: str) -> Document:
    name = value.get("v") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise AttestationError(f"{where}: no attestation", rule=f"v is one of {', '.join(sorted(_KINDS))}")
    kind, keys = _KINDS[name]
    fields = exact_object(value, keys, where=where)
    check_exchange(fields["exchange"], where=where)
    for part in ("chain", "address"):
        if not isinstance(fields[part], str) or not _PLAIN.fullmatch(fields[part]):
            raise AttestationError(f"{where}: {part}", rule="1 to 128 printable characters without spaces")
    if kind != "ownership":
        check_asset(fields["asset"], where=where)
        parse_amount(fields["amount"], where=where)
        check_instant(fields["at"], where=where)
    if kind == "balance":
        check_integer(fields["height"], 0, MAX_SAFE_INTEGER, where=f"{where}: height")
        if not isinstance(fields["block_hash"], str) or not _PLAIN.fullmatch(fields["block_hash"]):
            raise AttestationError(f"{where}: block_hash", rule="1 to 128 printable characters without spaces")
    else:
        parse_checkpoint(_string(fields["checkpoint"], where))
        check_text(fields["signature"], 16384, where=f"{where}: signature")
    if kind == "ownership":
        if fields["method"] not in (Method.EIP191, Method.EIP1271, Method.BIP322):
            raise AttestationError(f"{where}: method {str(fields['method'])[:40]!r}", rule="eip191, eip1271 or bip322")
        if (fields["method"] == Method.EIP1271) != (fields["answer"] is not None):
            raise AttestationError(f"{where}: answer", rule="a contract's answer for eip1271, null for the others")
        if fields["answer"] is not None:
            exact_object(fields["answer"], _ANSWER, where=f"{where}: answer")
    return Document(kind, fields)


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise AttestationError(f"{where}: checkpoint", rule="the checkpoint's text")
    return value
