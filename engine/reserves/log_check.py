"""The whole log checked: entries, signatures, checkpoints, their chain, and checkpoints that somebody kept.

What belongs here: the check of a log as rows, by whoever may read them; it needs no key that is secret.
What does not: reading the rows (see `engine.store.log`), and single proofs (see `merkle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.errors import ComplineError
from engine.reserves.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from engine.reserves.fields import FormatError
from engine.reserves.manifest import Manifest, SignedManifest, verify_manifest
from engine.reserves.merkle import consistency_proof, leaf_hash, root_of_hashes, verify_consistency
from engine.reserves.rotation import KeysInForce, in_force


@dataclass(frozen=True)
class LogRow:
    """One entry as the database has it: leaf bytes and stored hash, and its seal, if there is one."""

    index: int
    entry: bytes
    stored_hash: bytes
    manifest: str | None
    signature: str | None
    key_id: str | None
    checkpoint: str | None


@dataclass(frozen=True)
class LogLine:
    """One entry as it is shown."""

    index: int
    close_date: str
    version: int
    supersedes: int | None
    key_id: str
    root: str


@dataclass
class LogReport:
    """What was found: a line an entry, and every finding that does not hold, by entry."""

    lines: list[LogLine] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_log(rows: Sequence[LogRow], keys: Sequence[KeysInForce], kept: Sequence[str] = ()) -> LogReport:
    """Check every entry of a log, and that checkpoints kept elsewhere are of its past.

    Args:
        rows: in order, all of them.
        keys: published keys in force, from `rotation.walk`.
        kept: texts of checkpoints that the reader brought.
    """
    report = LogReport()
    hashes: list[bytes] = []
    before: str | None = None
    latest: dict[str, tuple[int, int]] = {}
    for expected, row in enumerate(rows):
        hashes.append(leaf_hash(row.entry))
        try:
            manifest = _check_row(row, expected, keys, hashes, before)
            _check_versions(manifest, latest)
            header = manifest.header
            latest[header.close_date] = (header.version, header.seq)
            report.lines.append(
                LogLine(
                    expected,
                    header.close_date,
                    header.version,
                    manifest.supersedes,
                    str(row.key_id),
                    hashes_root(hashes),
                )
            )
        except ComplineError as error:
            report.problems.append(f"entry {expected}: {error.what}")
        before = row.checkpoint
    for text in kept:
        try:
            _check_kept(text, hashes, keys)
        except ComplineError as error:
            report.problems.append(f"checkpoint kept elsewhere: {error.what}")
    return report


def hashes_root(hashes: Sequence[bytes]) -> str:
    """The root over leaf hashes, hex."""
    return root_of_hashes(hashes).hex()


def _check_row(
    row: LogRow, expected: int, keys: Sequence[KeysInForce], hashes: Sequence[bytes], before: str | None
) -> Manifest:
    if row.index != expected:
        raise FormatError(f"its index is {row.index}: an entry is missing", rule="indices count from 0")
    if row.manifest is None or row.signature is None or row.key_id is None or row.checkpoint is None:
        raise FormatError("it has no seal", rule="only manifests of seals are leaves")
    if row.stored_hash != hashes[-1] or row.manifest.encode() != row.entry:
        raise FormatError("its bytes are not those of its seal, or not those that were hashed")
    published = in_force(keys, expected).keys
    signed = SignedManifest(row.entry, bytes.fromhex(row.signature), row.key_id)
    manifest = verify_manifest(signed, published.manifest_key)
    if manifest.header.seq != expected:
        raise FormatError(f"its manifest says that it is entry {manifest.header.seq}")
    if manifest.prev_checkpoint != before:
        raise FormatError("its manifest names another checkpoint before it")
    checkpoint = verify_checkpoint(row.checkpoint, published.checkpoint_key)
    if (checkpoint.size, checkpoint.root) != (expected + 1, root_of_hashes(hashes)):
        raise FormatError("its checkpoint is of another log: size or root differ")
    return manifest


def _check_versions(manifest: Manifest, latest: dict[str, tuple[int, int]]) -> None:
    version, index = latest.get(manifest.header.close_date, (0, None))
    header = manifest.header
    if header.version != version + 1 or manifest.supersedes != index:
        raise FormatError(
            f"{header.close_date} v{header.version} supersedes {manifest.supersedes}, where v{version} came before"
        )


def _check_kept(text: str, hashes: Sequence[bytes], keys: Sequence[KeysInForce]) -> None:
    stated = parse_checkpoint(text).checkpoint
    if stated.size == 0:
        raise FormatError("it is of an empty log, which shows nothing")
    if stated.size > len(hashes):
        raise FormatError(f"it is of {stated.size} entries, the log has {len(hashes)}: entries were dropped")
    checkpoint: Checkpoint = verify_checkpoint(text, in_force(keys, stated.size - 1).keys.checkpoint_key)
    if checkpoint.root != root_of_hashes(hashes[: checkpoint.size]):
        raise FormatError(f"the first {checkpoint.size} entries have another root: the log was rewritten")
    proof = consistency_proof(hashes, checkpoint.size)
    verify_consistency(checkpoint.size, checkpoint.root, len(hashes), root_of_hashes(hashes), proof)
