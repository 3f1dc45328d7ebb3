"""Attested reserves: who controls an address, what lay on it, and whether that counts on a close date.

What belongs here: the documents that are captured, the message that an address signs, the signatures' verification, and
the rule that turns readings into an entry of the manifest. Source: RESERVES.md, Reserves.
What does not: where readings are stored (see `engine.store.attestations`), and asking a chain (see `engine.gateways`).

An address signs `POR v1|exchange|<the text of a past checkpoint>`: a checkpoint cannot be known before its day was
sealed, so the signature is no older than it. EIP-191 and BIP-322 are verified here from the document alone; an EIP-1271
document carries the contract's answer at a block, captured when it was brought, and is checked to answer the right
question.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from engine.canonical import jcs
from engine.clock import iso_s
from engine.errors import ComplineError
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
from engine.reserves.signing import verify_ed25519

LONGEST = 65536
STATEMENT_PREFIX = b"por/1/statement\0"
EIP1271_MAGIC = "0x1626ba7e"
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


def message_of(exchange: str, checkpoint: str) -> str:
    """What an address signs."""
    return f"POR v1|{exchange}|{checkpoint}"


@contextmanager
def _as_before() -> Iterator[None]:
    """Import Ethereum's libraries inside: one of them raises the process's recursion limit a hundredfold.

    With it, deep JSON no longer ends in a RecursionError but in a crash of the process.
    """
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def eip191_digest(message: str) -> bytes:
    """The hash that EIP-191's personal message signs (version 0x45)."""
    with _as_before():
        from eth_account.messages import _hash_eip191_message, encode_defunct

    return bytes(_hash_eip191_message(encode_defunct(text=message)))


def eip1271_call(message: str, signature: str) -> str:
    """The data of a call of `isValidSignature(bytes32,bytes)`, hex with 0x."""
    with _as_before():
        from eth_abi.abi import encode

    body = encode(["bytes32", "bytes"], [eip191_digest(message), _hex_bytes(signature)])
    return EIP1271_MAGIC + body.hex()


def _hex_bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise AttestationError("the signature is not hex", rule="hex, 0x before it") from None


def verify_ownership(document: Document, address: Address) -> None:
    """Check that the address's holder signed the document's checkpoint.

    Raises:
        AttestationError: the signature does not hold, or is of another method than the policy names.
    """
    fields = document.fields
    if fields["method"] != address.method:
        raise AttestationError(f"signed by {fields['method']}, the policy names {address.method}")
    message = message_of(fields["exchange"], fields["checkpoint"])
    try:
        holds = _VERIFIERS[address.method](address.address, message, fields)
    except ComplineError:
        raise
    except Exception as error:
        raise AttestationError(f"the {address.method} signature cannot be read: {type(error).__name__}") from error
    if not holds:
        raise AttestationError(f"the {address.method} signature is not by {address.address}")


def _by_eip191(address: str, message: str, fields: Mapping[str, Any]) -> bool:
    with _as_before():
        from eth_account import Account
        from eth_account.messages import encode_defunct

    signer = Account.recover_message(encode_defunct(text=message), signature=_hex_bytes(fields["signature"]))
    return bool(signer.lower() == address.lower())


def _by_eip1271(address: str, message: str, fields: Mapping[str, Any]) -> bool:
    answer = fields["answer"]
    if answer["data"] != eip1271_call(message, fields["signature"]):
        raise AttestationError("the contract was asked about another message or signature")
    word = _hex_bytes(_string(answer["result"], "answer"))
    return word == bytes.fromhex(EIP1271_MAGIC[2:]) + bytes(28)


def _by_bip322(address: str, message: str, fields: Mapping[str, Any]) -> bool:
    import bip322

    signature = str(fields["signature"]).removeprefix("smp")
    try:
        base64.b64decode(signature, validate=True)
    except binascii.Error:
        return False
    try:
        bip322.verify_simple_encoded(address, message, signature)
    except bip322.VerificationError:
        return False
    return True


_VERIFIERS = {Method.EIP191: _by_eip191, Method.EIP1271: _by_eip1271, Method.BIP322: _by_bip322}


def statement_message(fields: Mapping[str, Any]) -> bytes:
    """What a custodian signs (Ed25519): the statement without its signature, behind a prefix."""
    return STATEMENT_PREFIX + jcs({key: value for key, value in fields.items() if key != "signature"})


@dataclass(frozen=True)
class PastCheckpoint:
    """A checkpoint of this log: its text and the cut-off of the day that it sealed."""

    text: str
    cutoff_at: datetime


@dataclass(frozen=True)
class StoredReading:
    """A captured document: its id, instant and bytes."""

    reading_id: int
    at: datetime
    raw: bytes


@dataclass(frozen=True)
class Attested:
    """What an address comes to on a close date.

    Attributes:
        stated: the balance that was read, smallest units; None where none was.
        reason: why it counts zero; None where it counts.
    """

    address: Address
    stated: int | None
    height: int
    block_hash: str
    ownership: str
    reason: str | None
    readings: tuple[int, ...]

    @property
    def counted(self) -> int:
        """The amount that counts as a reserve."""
        return 0 if self.reason is not None or self.stated is None else self.stated


@dataclass(frozen=True)
class Judge:
    """Decides what readings are worth on a close date.

    Attributes:
        exchange: whose.
        cutoff_at: the day's cut-off.
        past: checkpoints of earlier days.
        max_age: oldest checkpoint that an ownership proof may sign.
        reading_max_age: how far a balance's reading may lie from the cut-off.
    """

    exchange: str
    cutoff_at: datetime
    past: Sequence[PastCheckpoint]
    max_age: timedelta
    reading_max_age: timedelta

    def judge(self, address: Address, readings: Mapping[str, Sequence[StoredReading]]) -> Attested:
        """What an address comes to.

        Args:
            address: of the policy.
            readings: subject -> stored readings, oldest first.
        """
        used: list[int] = []
        stated, height, block_hash, ownership = None, 0, "none", ""
        try:
            subject = "statement" if address.method == Method.CUSTODIAN else "balance"
            reading = self._nearest(readings.get(f"{subject}:{address.asset}:{address.place}", ()))
            document = self._read(reading)
            used.append(reading.reading_id)
            stated = int(document.fields["amount"])
            if address.method == Method.CUSTODIAN:
                block_hash = f"sha256:{hashlib.sha256(reading.raw).hexdigest()}"
                ownership = self._by_custodian(address, document)
            else:
                height, block_hash = document.fields["height"], document.fields["block_hash"]
                proof, ownership = self._owner(address, readings.get(f"ownership:{address.place}", ()))
                used.append(proof)
            return Attested(address, stated, height, block_hash, ownership, None, tuple(used))
        except ComplineError as error:
            why = f"not counted: {error.what}"[:1000]
            return Attested(address, stated, height, block_hash, _ascii(why), _ascii(error.what), tuple(used))

    def _nearest(self, found: Sequence[StoredReading]) -> StoredReading:
        near = [one for one in found if abs(one.at - self.cutoff_at) <= self.reading_max_age]
        if not near:
            raise AttestationError("no balance was read near the cut-off")
        return min(near, key=lambda one: (abs(one.at - self.cutoff_at), one.at))

    def _read(self, reading: StoredReading) -> Document:
        document = parse_document(reading.raw, where=f"reading {reading.reading_id}")
        if document.fields["exchange"] != self.exchange:
            raise AttestationError("the document is of another exchange")
        return document

    def _owner(self, address: Address, found: Sequence[StoredReading]) -> tuple[int, str]:
        why = AttestationError("no ownership proof")
        for reading in reversed(found):
            if reading.at > self.cutoff_at + self.reading_max_age:
                continue
            try:
                document = self._read(reading)
                signed = self._dated(document)
                verify_ownership(document, address)
                return reading.reading_id, f"{address.method} {signed}"
            except FormatError as error:
                why = AttestationError(error.what)
        raise why

    def _dated(self, document: Document) -> str:
        """The cut-off of the checkpoint that was signed, if it is this log's, past, and recent enough."""
        for one in self.past:
            if one.text == document.fields["checkpoint"]:
                if self.cutoff_at - one.cutoff_at > self.max_age:
                    raise AttestationError(
                        f"the ownership proof expired: it signs the checkpoint of {iso_s(one.cutoff_at)}"
                    )
                return iso_s(one.cutoff_at)
        raise AttestationError("the signed checkpoint is none of this log's past ones")

    def _by_custodian(self, address: Address, document: Document) -> str:
        signed = self._dated(document)
        signature = _hex_bytes(document.fields["signature"])
        try:
            verify_ed25519(bytes.fromhex(address.key), signature, statement_message(document.fields), where="statement")
        except ComplineError as error:
            raise AttestationError("the statement is not signed by the custodian's key of the policy") from error
        return f"{address.method} {signed}"


def _ascii(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)
