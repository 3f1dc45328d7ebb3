"""What an attested address comes to on a close date: the balance that was read, and why it counts or does not.

What belongs here: the rule that turns readings into an entry of the manifest. Source: RESERVES.md, Reserves.
What does not: the documents (see `attestation`), and who signed them (see `ownership`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.clock import iso_s
from engine.errors import ComplineError
from engine.reserves.attestation import Address, AttestationError, Document, Method, parse_document
from engine.reserves.fields import FormatError
from engine.reserves.ownership import hex_bytes, statement_message, verify_ownership
from engine.reserves.signing import verify_ed25519


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
        signature = hex_bytes(document.fields["signature"])
        try:
            verify_ed25519(bytes.fromhex(address.key), signature, statement_message(document.fields), where="statement")
        except ComplineError as error:
            raise AttestationError("the statement is not signed by the custodian's key of the policy") from error
        return f"{address.method} {signed}"


def _ascii(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)
