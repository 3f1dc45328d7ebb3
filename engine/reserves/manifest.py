"""The manifest: the signed statement of one day, its bytes, its strict reading, its signature.

What belongs here: the whole of what the exchange signs. Source: RESERVES.md, Manifest and log.
What does not: the entries in its lists (see `entries`), the log it is appended to (see `merkle`, `checkpoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.canonical import jcs
from engine.reserves.checkpoint import origin_of, parse_checkpoint
from engine.reserves.entries import AssetEntry, OtherLiability, Receivable, ReserveEntry, reserves_root, snapshot_root
from engine.reserves.fields import (
    FormatError,
    check_hex,
    check_integer,
    exact_object,
    json_list,
    load_strict_json,
    require_ascending,
)
from engine.reserves.header import HEADER_KEYS, Header
from engine.reserves.signing import ManifestSigner, SignatureError, key_id, verify_ed25519

SIGNATURE_PREFIX = b"por/1/manifest\0"
MAX_BYTES = 64 * 2**20

_BODY_KEYS = (
    "assets",
    "snapshot_root",
    "reserves",
    "reserves_root",
    "other_liabilities",
    "receivables",
    "verdicts_sha256",
    "prev_checkpoint",
    "supersedes",
)

_Entry = TypeVar("_Entry")


class ManifestError(FormatError):
    """A manifest that the format does not allow."""


@dataclass(frozen=True)
class Manifest:
    """One day's commitment. Made only by `build_manifest` and `parse_manifest`, so that it is always valid.

    Args:
        header: what the day is about.
        assets: strictly ascending by asset.
        reserves: strictly ascending by asset, chain, address.
        other_liabilities: strictly ascending by asset, account.
        receivables: gross, strictly ascending by asset.
        verdicts_sha256: digest of the gates' verdicts, hex.
        prev_checkpoint: full text of the checkpoint of size seq, None for the first.
        supersedes: log index of the version that this one corrects, or None.
    """

    header: Header
    assets: tuple[AssetEntry, ...]
    reserves: tuple[ReserveEntry, ...]
    other_liabilities: tuple[OtherLiability, ...]
    receivables: tuple[Receivable, ...]
    verdicts_sha256: str
    prev_checkpoint: str | None
    supersedes: int | None

    @property
    def snapshot_root(self) -> str:
        """Hex RFC 6962 root over the asset entries."""
        return snapshot_root(self.assets)

    def as_dict(self) -> dict[str, Any]:
        """The manifest's object."""
        return {
            **self.header.as_dict(),
            "assets": [entry.as_dict() for entry in self.assets],
            "snapshot_root": self.snapshot_root,
            "reserves": [entry.as_dict() for entry in self.reserves],
            "reserves_root": reserves_root(self.reserves),
            "other_liabilities": [entry.as_dict() for entry in self.other_liabilities],
            "receivables": [entry.as_dict() for entry in self.receivables],
            "verdicts_sha256": self.verdicts_sha256,
            "prev_checkpoint": self.prev_checkpoint,
            "supersedes": self.supersedes,
        }

    def to_bytes(self) -> bytes:
        """The canonical bytes: what is signed, and the leaf of the log."""
        return jcs(self.as_dict())

    def asset_entry(self, asset: str) -> AssetEntry | None:
        """The one entry of an asset, or None."""
        return next((entry for entry in self.assets if entry.asset == asset), None)


def build_manifest(
    header: Header,
    *,
    assets: Iterable[AssetEntry],
    verdicts_sha256: str,
    reserves: Iterable[ReserveEntry] = (),
    other_liabilities: Iterable[OtherLiability] = (),
    receivables: Iterable[Receivable] = (),
    prev_checkpoint: str | None = None,
    supersedes: int | None = None,
) -> Manifest:
    """Put a manifest together; lists may come in any order.

    Raises:
        ManifestError: two entries for one key, a checkpoint of another size, a re-close that supersedes nothing, or
            any value that the strict reading refuses.
        CheckpointError: the previous checkpoint is none.
    """
    if (supersedes is None) != (header.version == 1):
        raise ManifestError(
            f"manifest of {header.close_date} version {header.version} supersedes {supersedes}",
            rule="version 1 supersedes nothing, every later version the one before",
        )
    _check_prev_checkpoint(prev_checkpoint, header)
    manifest = Manifest(
        header=header,
        assets=tuple(sorted(assets, key=lambda one: one.asset)),
        reserves=tuple(sorted(reserves, key=lambda one: one.sort_key)),
        other_liabilities=tuple(sorted(other_liabilities, key=lambda one: one.sort_key)),
        receivables=tuple(sorted(receivables, key=lambda one: one.asset)),
        verdicts_sha256=verdicts_sha256,
        prev_checkpoint=prev_checkpoint,
        supersedes=supersedes,
    )
    return parse_manifest(manifest.to_bytes())


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest strictly.

    Raises:
        ManifestError: not JSON, a duplicate, unknown or missing key, a value that breaks its rule, a list out of
            order, a root that is not that of its list, or a text that is not its own JCS.
    """
    try:
        value = load_strict_json(data, longest=MAX_BYTES, where="manifest")
        manifest = _read(exact_object(value, (*HEADER_KEYS, *_BODY_KEYS), where="manifest"))
        canonical = manifest.to_bytes()
    except ManifestError:
        raise
    except FormatError as error:
        raise ManifestError(error.what, rule=error.rule, next_step=error.next_step) from error
    except ValueError as error:
        raise ManifestError("manifest: it has no canonical JSON", rule="strings are well-formed Unicode") from error
    if canonical != data:
        raise ManifestError("manifest: the text is not its own JCS", rule="a manifest is canonical JSON (RFC 8785)")
    return manifest


def _read(value: dict[str, Any]) -> Manifest:
    header = Header.parse({key: value[key] for key in HEADER_KEYS}, where="manifest")
    supersedes = value["supersedes"]
    if supersedes is not None:
        check_integer(supersedes, 0, header.seq - 1, where="manifest: supersedes")
    _check_prev_checkpoint(value["prev_checkpoint"], header)
    manifest = Manifest(
        header=header,
        assets=_entries(value["assets"], AssetEntry.parse, lambda one: one.asset, "assets"),
        reserves=_entries(value["reserves"], ReserveEntry.parse, lambda one: one.sort_key, "reserves"),
        other_liabilities=_entries(
            value["other_liabilities"], OtherLiability.parse, lambda one: one.sort_key, "other_liabilities"
        ),
        receivables=_entries(value["receivables"], Receivable.parse, lambda one: one.asset, "receivables"),
        verdicts_sha256=check_hex(value["verdicts_sha256"], 32, where="manifest: verdicts_sha256"),
        prev_checkpoint=value["prev_checkpoint"],
        supersedes=supersedes,
    )
    if value["snapshot_root"] != manifest.snapshot_root:
        raise ManifestError("manifest: snapshot_root is not that of its assets", rule="RFC 6962 over the asset entries")
    if value["reserves_root"] != reserves_root(manifest.reserves):
        raise ManifestError("manifest: reserves_root is not that of its reserves", rule="RFC 6962 over the reserves")
    return manifest


def _entries(
    value: object, parse: Callable[..., _Entry], sort_key: Callable[[_Entry], Any], name: str
) -> tuple[_Entry, ...]:
    items = json_list(value, where=f"manifest: {name}")
    entries = tuple(parse(item, where=f"manifest: {name}[{index}]") for index, item in enumerate(items))
    require_ascending([sort_key(entry) for entry in entries], where=f"manifest: {name}")
    return entries


def _check_prev_checkpoint(text: object, header: Header) -> None:
    if text is None and header.seq == 0:
        return
    if not isinstance(text, str) or header.seq == 0:
        raise ManifestError(
            f"manifest: prev_checkpoint at log index {header.seq}",
            rule="null for the first, else the checkpoint's text",
        )
    checkpoint = parse_checkpoint(text).checkpoint
    if checkpoint.size != header.seq or checkpoint.origin != origin_of(header.exchange):
        raise ManifestError(
            f"manifest: prev_checkpoint is of {checkpoint.origin} at size {checkpoint.size}",
            rule=f"the checkpoint of this log at size {header.seq}",
        )


@dataclass(frozen=True)
class SignedManifest:
    """A manifest's bytes with their signature and the id of the key."""

    data: bytes
    signature: bytes
    key_id: str


def sign_manifest(manifest: Manifest, signer: ManifestSigner) -> SignedManifest:
    """Sign a manifest's bytes behind the context prefix; the signature is checked before it leaves.

    Raises:
        SignatureError: the signer's signature does not hold under its own public key.
    """
    data = manifest.to_bytes()
    message = SIGNATURE_PREFIX + data
    signature = signer.sign_manifest_message(message)
    verify_ed25519(signer.public_key, signature, message, where="manifest, after signing")
    return SignedManifest(data, signature, key_id(signer.public_key))


def verify_manifest(signed: SignedManifest, public_key: bytes) -> Manifest:
    """Check the key id and the signature, then read the manifest strictly.

    Args:
        signed: bytes, signature and key id, from anywhere.
        public_key: 32 bytes, from a trusted place.

    Raises:
        SignatureError: another key's id, or a signature that does not hold.
        ManifestError: correctly signed, and still not what the format allows.
    """
    if signed.key_id != key_id(public_key):
        raise SignatureError(
            f"manifest: signed by key {signed.key_id[:40]}, not {key_id(public_key)}",
            rule="key_id is the first 8 bytes of the SHA-256 of the public key",
            next_step="compare the key with the published one",
        )
    verify_ed25519(public_key, signed.signature, SIGNATURE_PREFIX + signed.data, where="manifest")
    return parse_manifest(signed.data)
