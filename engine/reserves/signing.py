"""Who signs: the interfaces of the two signers, and Ed25519 behind them.

What belongs here: raw signatures, their verification and the id of a key; a KMS implements the same two protocols.
What does not: what is signed (see `manifest`, `checkpoint`), and where seeds come from (see `keys`, `key_file`).
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from engine.errors import GateError

SIGNATURE_BYTES = 64


class SignatureError(GateError):
    """A signature does not hold under the key that it should be from."""


class ManifestSigner(Protocol):
    """Signs manifests; its method is named unlike the checkpoint signer's, so that neither passes for the other."""

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""

    def sign_manifest_message(self, message: bytes) -> bytes:
        """64 bytes, Ed25519 over the message, which carries its context prefix already."""


class CheckpointSigner(Protocol):
    """Signs checkpoints of the log, with another key than manifests."""

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""

    def sign_note(self, body: bytes) -> bytes:
        """64 bytes, Ed25519 over the note's body."""


class Ed25519ManifestSigner:
    """A manifest signer that holds its 32-byte seed in memory."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""
        return self._key.public_key().public_bytes_raw()

    def sign_manifest_message(self, message: bytes) -> bytes:
        """64 bytes, Ed25519 over the message."""
        return self._key.sign(message)


class Ed25519CheckpointSigner:
    """A checkpoint signer that holds its 32-byte seed in memory."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""
        return self._key.public_key().public_bytes_raw()

    def sign_note(self, body: bytes) -> bytes:
        """64 bytes, Ed25519 over the note's body."""
        return self._key.sign(body)


def key_id(public_key: bytes) -> str:
    """The id of a manifest key: the first 8 bytes of its SHA-256, hex."""
    return hashlib.sha256(public_key).digest()[:8].hex()


def verify_ed25519(public_key: bytes, signature: bytes, message: bytes, *, where: str) -> None:
    """Check one Ed25519 signature.

    Args:
        public_key: 32 bytes.
        signature: 64 bytes.
        message: what was signed, with its prefix.
        where: what was signed, for the error.

    Raises:
        SignatureError: the signature does not hold, or key or signature have the wrong length.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f"{where}: the signature does not hold under key {key_id(public_key)}",
            rule="signed by the published key over exactly these bytes",
            next_step="compare the key with the published one, and the file with its source",
        ) from error
