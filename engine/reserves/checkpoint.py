"""Checkpoints of the log: C2SP tlog-checkpoint signed notes, and the keys that verify them.

What belongs here: the note's text and signature. Sources: c2sp.org/tlog-checkpoint, c2sp.org/signed-note.
What does not: the tree that a checkpoint is about (see `merkle`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from engine.reserves.fields import FormatError, check_exchange
from engine.reserves.signing import SIGNATURE_BYTES, CheckpointSigner, SignatureError, verify_ed25519

_ED25519 = b"\x01"
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_VKEY = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+={0,2})")
_FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff]")
_LONGEST = 65536


class CheckpointError(FormatError):
    """A text that is not a checkpoint or a key of one."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint states: this log has `size` leaves and this root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def body(self) -> str:
        """The text that is signed, its last newline included."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: the signer's name, its 4-byte key id, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint as read, with signatures that nobody has checked yet."""

    checkpoint: Checkpoint
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True)
class Vkey:
    """A verifier key of signed notes."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell signatures of one name apart."""
        return note_key_id(self.name, self.public_key)


def origin_of(exchange: str) -> str:
    """The log's origin, also the name of its key.

    Raises:
        CheckpointError: the exchange's name holds a space or a plus, which a note's key name can't.
    """
    check_exchange(exchange, where="checkpoint")
    if " " in exchange or "+" in exchange:
        raise CheckpointError(
            f"exchange {exchange!r}", rule="a checkpoint's origin has no space and no plus (C2SP signed-note)"
        )
    return f"{exchange}/por"


def note_key_id(name: str, public_key: bytes) -> bytes:
    """C2SP key id: the first 4 bytes of SHA-256(name, LF, algorithm, key)."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + _ED25519 + public_key).digest()[:4]


def vkey_text(name: str, public_key: bytes) -> str:
    """A key as `name+id+base64(algorithm ‖ key)`."""
    encoded = base64.b64encode(_ED25519 + public_key).decode("ascii")
    return f"{name}+{note_key_id(name, public_key).hex()}+{encoded}"


def parse_vkey(text: str) -> Vkey:
    """Read a key's text.

    Raises:
        CheckpointError: another form or algorithm, or an id that is not this key's.
    """
    match = _VKEY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise CheckpointError(f"key {text[:80]!r}", rule="a C2SP vkey: name+id+base64")
    name, stated, encoded = match.groups()
    raw = _base64(encoded, "key")
    if len(raw) != 33 or raw[:1] != _ED25519:
        raise CheckpointError(f"key {text[:80]!r}", rule="an Ed25519 key (algorithm 1) of 32 bytes")
    if note_key_id(name, raw[1:]).hex() != stated:
        raise CheckpointError(f"key {text[:80]!r}", rule="the id is that of the name and key")
    return Vkey(name, raw[1:])


def sign_checkpoint(exchange: str, size: int, root: bytes, signer: CheckpointSigner) -> str:
    """The signed text of a checkpoint.

    Args:
        exchange: the exchange's name.
        size: leaves in the log.
        root: 32 bytes.
        signer: the checkpoint key, which is not the manifest key.

    Raises:
        SignatureError: the signer's signature does not hold under its own public key.
    """
    checkpoint = Checkpoint(origin_of(exchange), size, root)
    body = checkpoint.body.encode("utf-8")
    signature = signer.sign_note(body)
    verify_ed25519(signer.public_key, signature, body, where="checkpoint, after signing")
    line = base64.b64encode(note_key_id(checkpoint.origin, signer.public_key) + signature).decode("ascii")
    text = f"{checkpoint.body}\n— {checkpoint.origin} {line}\n"
    parse_checkpoint(text)
    return text


def parse_checkpoint(text: str) -> SignedCheckpoint:
    """Read a checkpoint's text: three lines, an empty one, at least one signature line. Extension lines are refused.

    Raises:
        CheckpointError: any other form.
    """
    if len(text) > _LONGEST or _FORBIDDEN.search(text):
        raise CheckpointError(
            "checkpoint: too long, or control characters", rule=f"at most {_LONGEST} characters of plain UTF-8 text"
        )
    lines = text.split("\n")
    if len(lines) < 6 or lines[3] or lines[-1]:
        raise CheckpointError(
            "checkpoint: not a signed note of three lines", rule="origin, size, root, empty line, signatures"
        )
    origin, size, root = lines[0], lines[1], _base64(lines[2], "checkpoint root")
    if not origin or not _SIZE.fullmatch(size) or len(root) != 32:
        raise CheckpointError("checkpoint: origin, size or root", rule="an origin, a decimal size, 32 bytes in base64")
    signatures = tuple(_signature(line) for line in lines[4:-1])
    return SignedCheckpoint(Checkpoint(origin, int(size), root), signatures)


def _signature(line: str) -> NoteSignature:
    match = _SIGNATURE_LINE.fullmatch(line)
    raw = _base64(match[2], "checkpoint signature") if match else b""
    if match is None or len(raw) < 5:
        raise CheckpointError(
            f"checkpoint: signature line {line[:80]!r}", rule="em dash, name, base64 of id and signature"
        )
    return NoteSignature(match[1], raw[:4], raw[4:])


def verify_checkpoint(text: str, key: Vkey) -> Checkpoint:
    """Read a checkpoint and check its signature by one key; cosignatures by other keys are passed over.

    Args:
        text: the checkpoint, from anywhere.
        key: the log's key, from a trusted place; its name must be the origin.

    Raises:
        CheckpointError: not a checkpoint.
        SignatureError: another log's, not signed by this key, or a signature that does not hold.
    """
    signed = parse_checkpoint(text)
    if signed.checkpoint.origin != key.name:
        raise SignatureError(f"checkpoint: of log {signed.checkpoint.origin[:80]!r}", rule=f"the log is {key.name!r}")
    ours = [one for one in signed.signatures if (one.name, one.key_id) == (key.name, key.key_id)]
    if not ours:
        raise SignatureError(f"checkpoint: no signature by {key.name}", rule="signed by the log's key")
    for one in ours:
        if len(one.signature) != SIGNATURE_BYTES:
            raise SignatureError("checkpoint: signature of another length", rule="64 bytes, Ed25519")
        verify_ed25519(key.public_key, one.signature, signed.checkpoint.body.encode("utf-8"), where="checkpoint")
    return signed.checkpoint


def _base64(text: str, where: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise CheckpointError(f"{where}: not base64", rule="standard base64") from error
    if base64.b64encode(raw).decode("ascii") != text:
        raise CheckpointError(f"{where}: base64 with stray bits", rule="one text for one value")
    return raw
