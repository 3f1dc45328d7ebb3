"""Keys that never leave their keeper: signers over a KMS, in the place of signers over seeds.

What belongs here: the two calls that a KMS must answer, and signers made of them.
What does not: one vendor's client: whoever has one gives it these two methods.

The master key is no signing key: it derives a secret for every user, a million times a day, so it stays in this
process; a KMS may hold it wrapped and give it at the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.reserves.keys import ReserveKeys


class Kms(Protocol):
    """A keeper of Ed25519 keys by name."""

    def public_key(self, name: str) -> bytes:
        """The 32 bytes of a key's public half."""

    def sign(self, name: str, message: bytes) -> bytes:
        """64 bytes, Ed25519 over the message as it is (no prehash)."""


@dataclass(frozen=True)
class KmsManifestSigner:
    """Signs manifests with a key that a KMS holds."""

    kms: Kms
    name: str

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""
        return self.kms.public_key(self.name)

    def sign_manifest_message(self, message: bytes) -> bytes:
        """64 bytes, Ed25519 over the message."""
        return self.kms.sign(self.name, message)


@dataclass(frozen=True)
class KmsCheckpointSigner:
    """Signs checkpoints with a key that a KMS holds."""

    kms: Kms
    name: str

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""
        return self.kms.public_key(self.name)

    def sign_note(self, body: bytes) -> bytes:
        """64 bytes, Ed25519 over the note's body."""
        return self.kms.sign(self.name, body)


@dataclass(frozen=True)
class KmsKeys:
    """What a close asks of a book's keys, with both signing keys in a KMS."""

    reserve: ReserveKeys
    kms: Kms
    manifest_name: str
    checkpoint_name: str

    @property
    def public(self) -> bool:
        """Whether anyone can know them; what a KMS holds is secret."""
        return self.reserve.public

    def manifest_signer(self) -> KmsManifestSigner:
        """The signer of manifests."""
        return KmsManifestSigner(self.kms, self.manifest_name)

    def checkpoint_signer(self) -> KmsCheckpointSigner:
        """The signer of checkpoints."""
        return KmsCheckpointSigner(self.kms, self.checkpoint_name)
