"""Checks Compline's proofs of reserves (format por/1) without trusting or installing Compline.

This file is all there is: it needs Python 3.8 or newer and nothing else, opens no connection and writes no file.

    compline_verify.py proof FILE       --checkpoint FILE --key FILE     a customer's proof file
    compline_verify.py history DIR      --checkpoint FILE --key FILE     a folder of them, one a day
    compline_verify.py evidence ZIP     --checkpoint FILE --key FILE     a day's evidence pack
    compline_verify.py tree DUMP        --evidence ZIP + the same        every leaf of one asset (auditors)
    compline_verify.py shard FILE --user-key FILE [--manifest FILE] + the same   your sealed record in a shard
    compline_verify.py consistency OLD NEW PROOF --key FILE              the log only grew between two checkpoints

Checkpoint and key must come from elsewhere than the file that is checked: a witness, a newspaper, your own copy of last
month. Without them the answer is "consistent, NOT anchored". Exit 0 valid, 1 invalid, 2 not checked to the end.
Every refusal names the rule that was broken and the level: a level of the tree (leaves are 0), or the part of the file.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import datetime
import hashlib
import hmac
import io
import json
import os
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

LIMIT = 16 * 2**20  # bytes of a JSON file
PACK_LIMIT = 256 * 2**20  # bytes of an evidence pack, packed or unpacked
SHARD_LIMIT = 2**30
SUM_LIMIT = 2**127
SAFE = 2**53 - 1
NOT_PROVEN = (
    "NOT proven: that the assets were the exchange's own and not borrowed for the day, that no liability is kept off"
    " the books, and that users who never check are in the total. An asset that is missing altogether does not show:"
    " compare with your own statement."
)
DISCLOSES = "This file shows its reader one neighbour's chunk, and the sums of the subtrees beside your path."


class ProofError(Exception):
    """A refusal: the rule that was broken, the level at which, and what was found."""

    def __init__(self, rule: str, level: int | str, what: str) -> None:
        super().__init__(f"rule {rule}, level {level}: {what}")
        self.rule, self.level, self.what = rule, level, what


class NotCheckedError(Exception):
    """What was asked could not be looked at: a missing file, a missing argument."""


def need(holds: object, rule: str, level: int | str, what: str) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise ProofError(rule, level, what)


# --- Bytes and text -------------------------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def hmac256(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256."""
    return hmac.new(key, data, hashlib.sha256).digest()


def shown(value: object) -> str:
    """A value as an error may quote it: short and printable, whatever it is."""
    return ascii(value[:60] if isinstance(value, (str, list)) else value)[:80]


def plain_size(path: str) -> int:
    """How long a plain file is; pipes and devices are not read, they may have no end."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise NotCheckedError(f"{path}: {error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise NotCheckedError(f"{path}: not a plain file")
    return status.st_size


def read_file(path: str, limit: int = LIMIT) -> bytes:
    """A file's bytes; one that is too long is refused before it is read."""
    size = plain_size(path)
    need(size <= limit, "size", "file", f"{path}: {size} bytes, at most {limit} are read")
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise NotCheckedError(f"{path}: {error}") from None
    need(len(data) <= limit, "size", "file", f"{path}: more than {limit} bytes")
    return data


def strict_json(data: bytes, level: str, most: int = LIMIT) -> Any:
    """JSON with no duplicate key, fraction, exponent, sign, NaN or integer from 2^53."""

    def number(text: str) -> int:
        plain = re.fullmatch("0|[1-9][0-9]{0,15}", text)
        need(plain and int(text) <= SAFE, "number", level, f"{shown(text)} is no integer from 0 below 2^53")
        return int(text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        need(len(result) == len(pairs), "duplicate-key", level, "a JSON key is given twice")
        return result

    def refuse(text: str) -> NoReturn:
        raise ProofError("number", level, f"{shown(text)} is no integer from 0 below 2^53")

    need(len(data) <= most, "size", level, f"{len(data)} bytes, at most {most} are read")
    need(data[:2] != b"PK", "json", level, "not JSON: a zip; `evidence` checks evidence packs")
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=unique, parse_int=number, parse_float=refuse, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ProofError("json", level, f"not JSON ({shown(str(error))})") from None


def jcs(value: Any) -> bytes:
    """RFC 8785 canonical JSON of ASCII keys, strings, integers below 2^53 and null."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def exact(value: Any, keys: str, level: int | str) -> dict[str, Any]:
    """A JSON object with exactly these keys."""
    need(isinstance(value, dict), "structure", level, "not a JSON object")
    found, wanted = set(value), set(keys.split())
    need(found <= wanted, "structure", level, f"unknown key {shown(min(found - wanted, default=''))}")
    need(found == wanted, "structure", level, f"key {min(wanted - found, default='')} is missing")
    return dict(value)


def a_list(value: Any, level: int | str, longest: int = 10**6) -> list[Any]:
    """A JSON array."""
    need(isinstance(value, list) and len(value) <= longest, "structure", level, f"not an array of at most {longest}")
    return list(value)


def integer(value: Any, low: int, high: int, level: int | str, what: str) -> int:
    """An integer in [low, high]; true and false are none."""
    need(type(value) is int and low <= value <= high, "integer", level, f"{what} {shown(value)}, not {low} to {high}")
    return int(value)


def text(value: Any, longest: int, level: int | str, what: str) -> str:
    """1 to `longest` printable ASCII characters."""
    fits = isinstance(value, str) and len(value) <= longest and re.fullmatch("[\x20-\x7e]+", value)
    need(fits, "text", level, f"{what} {shown(value)} is not 1 to {longest} printable ASCII characters")
    return str(value)


def unhex(value: Any, length: int, level: int | str, what: str) -> bytes:
    """Lower-case hex of `length` bytes."""
    fits = isinstance(value, str) and len(value) == 2 * length and re.fullmatch("[0-9a-f]*", value)
    need(fits, "hex", level, f"{what} {shown(value)} is not {length} bytes in lower-case hex")
    return bytes.fromhex(value)


def amount(value: Any, level: int | str, what: str) -> int:
    """An amount: a decimal string of smallest units without sign, space or leading zero, below 2^127."""
    fits = isinstance(value, str) and re.fullmatch("0|[1-9][0-9]{0,38}", value)
    need(fits, "amount", level, f"{what} {shown(value)} is no decimal string without sign, space or leading zero")
    need(int(value) < SUM_LIMIT, "sum-range", level, f"{what} {value} is not below 2^127")
    return int(value)


def date(value: Any, level: str) -> datetime.date:
    """A calendar date, YYYY-MM-DD."""
    try:
        need(isinstance(value, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value), "date", level, shown(value))
        return datetime.date(int(value[:4]), int(value[5:7]), int(value[8:]))
    except ValueError:
        raise ProofError("date", level, f"{shown(value)} is no date") from None


def base64_bytes(value: str, level: str) -> bytes:
    """Standard base64, one text for one value."""
    try:
        raw = base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ProofError("base64", level, f"{shown(value)} is not base64") from None
    need(base64.b64encode(raw).decode() == value, "base64", level, f"{shown(value)} has stray bits")
    return raw


def ascending(keys: Sequence[Any], level: str) -> None:
    """Strictly ascending, so that nothing comes twice."""
    for i in range(1, len(keys)):
        need(keys[i - 1] < keys[i], "order", level, f"{shown(keys[i])} after {shown(keys[i - 1])}")


# --- Ed25519 (RFC 8032, strict) -------------------------------------------------------------------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
Point = Any  # X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z


def _add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _double(p: Point) -> Point:
    a, b, c = p[0] * p[0] % P, p[1] * p[1] % P, 2 * p[2] * p[2] % P
    h, g = a + b, a - b
    e, f = h - (p[0] + p[1]) ** 2 % P, c + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def _point(data: bytes) -> Point | None:
    """Decode a point; none for a y from p up, no point of the curve, or a point of small order."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * v**3 * pow(u * v**7, (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or v * x * x % P != u or (x == 0 and sign):
        return None
    if x % 2 != sign:
        x = P - x
    point = (x, y, 1, x * y % P)
    eight = _double(_double(_double(point)))
    return None if eight[0] == 0 else point


def ed25519_valid(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds: S below the order, no point of small order or of another encoding."""
    s = int.from_bytes(signature[32:], "little")
    if len(public_key) != 32 or len(signature) != 64 or s >= ORDER:
        return False
    a, r = _point(public_key), _point(signature[:32])
    if a is None or r is None:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % ORDER
    y = 4 * pow(5, P - 2, P) % P
    base = _point(y.to_bytes(32, "little"))
    assert base is not None
    minus_a = (P - a[0], a[1], 1, P - a[3])
    both, sum_ = _add(base, minus_a), (0, 1, 1, 0)
    for bit in range(max(s.bit_length(), h.bit_length()) - 1, -1, -1):
        sum_ = _double(sum_)
        if s >> bit & 1 and h >> bit & 1:
            sum_ = _add(sum_, both)
        elif s >> bit & 1:
            sum_ = _add(sum_, base)
        elif h >> bit & 1:
            sum_ = _add(sum_, minus_a)
    return bool((sum_[0] - r[0] * sum_[2]) % P == 0 and (sum_[1] - r[1] * sum_[2]) % P == 0)


# --- The log: RFC 6962 trees, RFC 9162 proofs, C2SP checkpoints ------------------------------------------------------


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return sha256(b"\x00" + leaf)


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two children."""
    return sha256(b"\x01" + left + right)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The RFC 6962 root over leaves' bytes."""
    level = [leaf_hash(leaf) for leaf in leaves]
    if not level:
        return sha256(b"")
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)] + odd
    return level[0]


def _integers(*sizes: object) -> bool:
    return all(type(one) is int and 0 <= one < 2**63 for one in sizes)


def _hashes(proof: object, *others: object) -> bool:
    """Whether a proof is a list or tuple of 32-byte strings, and the others are such strings."""
    listed = isinstance(proof, (list, tuple))
    return listed and all(isinstance(one, bytes) and len(one) == 32 for one in (*proof, *others))  # type: ignore[misc]


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Refuse unless a leaf hash is at `index` (from 0) of the tree of `size` leaves with this root (RFC 9162, 2.1.3.2).

    Raises:
        ProofError: it is not shown to be.
    """
    need(_integers(index, size) and index < size, "log-inclusion", "log", f"index {shown(index)} of {shown(size)}")
    need(_hashes(proof, leaf_hash, root), "log-inclusion", "log", "a hash is not 32 bytes, or the proof is no list")
    node, last, digest = index, size - 1, leaf_hash
    for step in proof:
        need(last, "log-inclusion", "log", "too many hashes")
        if node & 1 or node == last:
            digest = node_hash(step, digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = node_hash(digest, step)
        node, last = node >> 1, last >> 1
    need(not last, "log-inclusion", "log", "too few hashes")
    need(digest == root, "log-inclusion", "log", "the path ends at another root")


def verify_consistency(size1: int, root1: bytes, size2: int, root2: bytes, proof: Sequence[bytes]) -> None:
    """Refuse unless the tree of size1 is a prefix of the tree of size2 (RFC 9162, 2.1.4.2).

    Raises:
        ProofError: it is not shown to be. Of an empty earlier tree nothing can be shown.
    """
    rule = "log-consistency"
    need(_integers(size1, size2) and size1 <= size2, rule, "log", f"sizes {shown(size1)} and {shown(size2)}")
    need(_hashes(proof), rule, "log", "a hash is not 32 bytes, or the proof is no list")
    if size1 == size2:
        need(not proof and root1 == root2, rule, "log", "same size: no hashes, and the same root")
        return
    need(size1 and proof, rule, "log", "an empty earlier tree or an empty proof shows nothing")
    need(_hashes((root1, root2)), rule, "log", "a root is not 32 bytes")
    steps = list(proof) if size1 & (size1 - 1) else [root1, *proof]
    node, last = size1 - 1, size2 - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    digest1 = digest2 = steps[0]
    for step in steps[1:]:
        need(last, rule, "log", "too many hashes")
        if node & 1 or node == last:
            digest1, digest2 = node_hash(step, digest1), node_hash(step, digest2)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest2 = node_hash(digest2, step)
        node, last = node >> 1, last >> 1
    need(not last, rule, "log", "too few hashes")
    need(digest1 == root1, rule, "log", "the proof ends at another earlier root")
    need(digest2 == root2, rule, "log", "the proof ends at another later root")


class Checkpoint(NamedTuple):
    """A signed note: this log has `size` leaves and this root. Signatures are (name, key id, signature)."""

    origin: str
    size: int
    root: bytes
    body: bytes
    signatures: list[tuple[str, bytes, bytes]]


def read_checkpoint(note: Any, level: str) -> Checkpoint:
    """Read a C2SP tlog-checkpoint: origin, size, root, an empty line, signatures. Nothing is verified yet."""
    rule = "checkpoint"
    plain = isinstance(note, str) and len(note) <= 65536 and not re.search("[\0-\x09\x0b-\x1f\x7f\ud800-\udfff]", note)
    need(plain, rule, level, "not a text of at most 65536 characters without control characters")
    lines = note.split("\n")
    need(len(lines) >= 6 and not lines[3] and not lines[-1], rule, level, "not origin, size, root, empty, signatures")
    root = base64_bytes(lines[2], level)
    sized = re.fullmatch("0|[1-9][0-9]{0,17}", lines[1])
    need(lines[0] and sized and len(root) == 32, rule, level, "origin, size or root malformed")
    signatures = []
    for line in lines[4:-1]:
        match = re.fullmatch("— ([^\\s+\x85\ufeff]+) ([A-Za-z0-9+/]+={0,2})", line)
        raw = base64_bytes(match[2], level) if match else b""
        need(len(raw) >= 5, rule, level, f"signature line {shown(line)}")
        signatures.append((match[1] if match else "", raw[:4], raw[4:]))
    return Checkpoint(lines[0], int(lines[1]), root, ("\n".join(lines[:3]) + "\n").encode("utf-8"), signatures)


class Keys(NamedTuple):
    """The published key file: the manifest key, and the checkpoint key with its name and id."""

    manifest: bytes
    name: str
    note_id: bytes
    note: bytes


def read_keys(data: bytes) -> Keys:
    """Read a key file: the manifest key in hex, then the checkpoint key as a C2SP vkey."""
    lines = data.decode("ascii", "replace").split()
    match = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+={0,2})", lines[1]) if len(lines) == 2 else None
    if match is None:
        raise ProofError("key-file", "key", "not two lines: manifest key in hex, checkpoint key as name+id+base64")
    raw = base64_bytes(match[3], "key")
    need(len(raw) == 33 and raw[:1] == b"\x01", "key-file", "key", "the checkpoint key is not an Ed25519 key")
    note_id = sha256(match[1].encode() + b"\n" + raw)[:4]
    need(note_id.hex() == match[2], "key-file", "key", "the checkpoint key's id is not that of its name and key")
    return Keys(unhex(lines[0], 32, "key", "manifest key"), match[1], note_id, raw[1:])


def check_note_signature(checkpoint: Checkpoint, keys: Keys, level: str) -> None:
    """Refuse unless the log's key signed it; cosignatures by others are passed over."""
    ours = [one for one in checkpoint.signatures if one[:2] == (keys.name, keys.note_id)]
    need(checkpoint.origin == keys.name, "checkpoint-key", level, f"of log {shown(checkpoint.origin)}, not {keys.name}")
    need(ours, "checkpoint-key", level, f"no signature by the key of {keys.name}")
    for one in ours:
        good = ed25519_valid(keys.note, one[2], checkpoint.body)
        need(good, "checkpoint-signature", level, "the signature does not hold under the log's key")


# --- What the answer rests on ---------------------------------------------------------------------------------------


class Trust:
    """What the reader brought from elsewhere: the keys, checkpoints, and consistency proofs between sizes."""

    def __init__(self, keys: Keys | None, checkpoints: list[Checkpoint], links: list[Any]) -> None:
        self.keys, self.checkpoints, self.links = keys, checkpoints, links
        for one in checkpoints if keys else []:
            check_note_signature(one, keys, "checkpoint")  # type: ignore[arg-type]

    def anchored(self, stated: Checkpoint, level: str = "log") -> bool:
        """Whether a checkpoint is one of the reader's, or is linked to one; another root at one size is a fork."""
        held = False
        for ours in self.checkpoints:
            need(ours.origin == stated.origin, "fork", level, f"your checkpoint is of {shown(ours.origin)}")
            same = ours.size == stated.size
            need(not same or ours.root == stated.root, "fork", level, f"yours of size {ours.size} has another root")
            held = held or same
            low, high = sorted((stated, ours), key=lambda one: one.size)
            for size1, size2, hashes in self.links:
                if (size1, size2) == (low.size, high.size) and low.size < high.size:
                    verify_consistency(size1, low.root, size2, high.root, hashes)
                    held = True
        return held and self.keys is not None

    def missing(self) -> str:
        """What would be needed to anchor the answer."""
        wanted = [] if self.keys else ["the published key (--key)"]
        if not self.checkpoints:
            wanted.append("a checkpoint from elsewhere (--checkpoint)")
        return " and ".join(wanted) or "a checkpoint of the same size, or a consistency proof to yours (--consistency)"


def read_link(data: bytes) -> tuple[int, int, list[bytes]]:
    """Read a consistency proof: {hashes, size1, size2}, hashes in hex."""
    value = exact(strict_json(data, "consistency"), "hashes size1 size2", "consistency")
    sizes = [integer(value[key], 0, SAFE, "consistency", key) for key in ("size1", "size2")]
    hashes = [unhex(one, 32, "consistency", "hash") for one in a_list(value["hashes"], "consistency", 128)]
    return sizes[0], sizes[1], hashes


# --- The manifest ---------------------------------------------------------------------------------------------------

HEADER = "v exchange seq close_date version snapshot_at barrier_seq books_sha256 policy_sha256"
BODY = "assets snapshot_root reserves reserves_root other_liabilities receivables verdicts_sha256"
BODY += " prev_checkpoint supersedes"


class Manifest(NamedTuple):
    """A manifest that was read strictly."""

    data: bytes
    value: dict[str, Any]
    ctx: bytes
    assets: dict[str, dict[str, Any]]
    prev: Checkpoint | None

    @property
    def day(self) -> str:
        """Exchange, date and version, for people."""
        return f"{self.value['exchange']}, {self.value['close_date']} version {self.value['version']}"


def _asset_entry(entry: Any, level: str) -> str:
    value = exact(entry, "asset decimals height root total", level)
    integer(value["decimals"], 0, SAFE, level, "decimals")
    integer(value["height"], 1, 40, level, "height")
    unhex(value["root"], 32, level, "root")
    amount(value["total"], level, "total")
    return text(value["asset"], 32, level, "asset")


def _reserve_entry(entry: Any, level: str) -> tuple[str, ...]:
    value = exact(entry, "asset chain address amount height block_hash ownership", level)
    amount(value["amount"], level, "amount")
    integer(value["height"], 0, SAFE, level, "height")
    for key in ("block_hash", "ownership"):
        text(value[key], 1024, level, key)
    keys = [text(value[key], 1024, level, key) for key in ("chain", "address")]
    return (text(value["asset"], 32, level, "asset"), *keys)


def _liability_entry(entry: Any, level: str) -> tuple[str, str]:
    value = exact(entry, "account amount asset", level)
    amount(value["amount"], level, "amount")
    return text(value["asset"], 32, level, "asset"), text(value["account"], 1024, level, "account")


def _receivable_entry(entry: Any, level: str) -> str:
    value = exact(entry, "amount asset", level)
    amount(value["amount"], level, "amount")
    return text(value["asset"], 32, level, "asset")


def _check_instant(value: Any) -> None:
    form = "([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})([.][0-9]{1,6})?Z"
    match = re.fullmatch(form, value) if isinstance(value, str) else None
    inside = match and int(match[2]) < 24 and int(match[3]) < 60 and int(match[4]) < 60
    need(inside, "date", "manifest", f"snapshot_at {shown(value)} is no UTC instant")
    date(match[1] if match else "", "manifest")


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest: every field, every list's order, both roots, and that the text is its own canonical JSON."""
    m = exact(strict_json(data, "manifest"), HEADER + " " + BODY, "manifest")
    try:
        need(jcs(m) == data, "canonical", "manifest", "the text is not its own JCS (RFC 8785)")
    except UnicodeEncodeError:
        raise ProofError("canonical", "manifest", "a string is no Unicode text") from None
    need(m["v"] == "por/1", "version", "manifest", f"format {shown(m['v'])}, not 'por/1'")
    text(m["exchange"], 253, "manifest", "exchange")
    date(m["close_date"], "manifest")
    _check_instant(m["snapshot_at"])
    for key, low in (("seq", 0), ("version", 1), ("barrier_seq", 0)):
        integer(m[key], low, SAFE, "manifest", key)
    for key in ("books_sha256", "policy_sha256", "verdicts_sha256", "snapshot_root", "reserves_root"):
        unhex(m[key], 32, "manifest", key)
    lists: list[tuple[str, Callable[[Any, str], Any]]] = [
        ("assets", _asset_entry),
        ("reserves", _reserve_entry),
        ("other_liabilities", _liability_entry),
        ("receivables", _receivable_entry),
    ]
    for key, read in lists:
        ascending([read(one, key) for one in a_list(m[key], key)], key)
    for key in ("snapshot", "reserves"):
        entries = [jcs(one) for one in m["assets" if key == "snapshot" else key]]
        need(merkle_root(entries).hex() == m[key + "_root"], key + "-root", "manifest", "not the root of its list")
    fits = (m["supersedes"] is None) == (m["version"] == 1)
    need(fits, "supersedes", "manifest", "version 1 supersedes nothing, later ones do")
    if m["supersedes"] is not None:
        integer(m["supersedes"], 0, m["seq"] - 1, "manifest", "supersedes")
    prev = None if m["prev_checkpoint"] is None else read_checkpoint(m["prev_checkpoint"], "prev_checkpoint")
    fits = prev is None if m["seq"] == 0 else prev is not None and prev[:2] == (m["exchange"] + "/por", m["seq"])
    need(fits, "prev-checkpoint", "manifest", "not the checkpoint of this log at size seq (null for the first)")
    ctx = sha256(jcs({key: m[key] for key in HEADER.split()}))
    return Manifest(data, m, ctx, {one["asset"]: one for one in m["assets"]}, prev)


def check_manifest_signature(manifest: Manifest, signature: bytes, keys: Keys) -> None:
    """Refuse unless the published key signed exactly these bytes behind the format's prefix."""
    good = ed25519_valid(keys.manifest, signature, b"por/1/manifest\0" + manifest.data)
    need(good, "signature", "manifest", "the signature does not hold under the published key")


def check_log(manifest: Manifest, log: Any, trust: Trust) -> bool:
    """Refuse unless the manifest is in the log under the stated checkpoint; tell whether that one is anchored."""
    value = exact(log, "index size hashes checkpoint", "log")
    index, size = (integer(value[key], 0, SAFE, "log", key) for key in ("index", "size"))
    hashes = [unhex(one, 32, "log", "hash") for one in a_list(value["hashes"], "log", 64)]
    stated = read_checkpoint(value["checkpoint"], "log")
    seq = manifest.value["seq"]
    need(index == seq, "log-index", "log", f"index {index}, the manifest's seq is {seq}")
    need(stated.size == size, "log-size", "log", f"size {size}, the checkpoint's is {stated.size}")
    named = stated.origin == manifest.value["exchange"] + "/por"
    need(named, "checkpoint-origin", "log", f"the checkpoint is of {shown(stated.origin)}")
    verify_inclusion(leaf_hash(manifest.data), index, size, hashes, stated.root)
    if trust.keys:
        check_note_signature(stated, trust.keys, "log")
    if manifest.prev:
        trust.anchored(manifest.prev, "prev_checkpoint")
    return trust.anchored(stated)


# --- The proof file of one account ----------------------------------------------------------------------------------


def node_digest(height: int, left: bytes, left_sum: int, right: bytes, right_sum: int) -> bytes:
    """The digest of a node of a sum tree: both children's digests and sums are bound, and its height."""
    sums = left_sum.to_bytes(16, "big"), right_sum.to_bytes(16, "big")
    return sha256(bytes([1, height]) + left + sums[0] + right + sums[1])


def climb(chunk: dict[str, Any], account: str, entry: dict[str, Any]) -> None:
    """Refuse unless a chunk's path climbs to the root and total that the manifest states for its asset."""
    where = f"{chunk['asset']} chunk {chunk['chunk']}"
    total, height = amount(chunk["amount"], 0, f"{where}: amount"), entry["height"]
    secret = unhex(chunk["leaf_secret"], 32, 0, f"{where}: leaf secret")
    path = a_list(chunk["path"], "path")
    shorter = min(len(path), height)
    need(len(path) == height, "path-length", shorter, f"{where}: {len(path)} steps, the tree's height is {height}")
    index = integer(chunk["index"], 0, SAFE, 0, f"{where}: index")
    need(index < 1 << height, "index-range", 0, f"{where}: index {index} in a tree of height {height}")
    tag = hmac256(secret, chunk["chunk"].to_bytes(4, "big") + account.encode())
    digest = sha256(b"\0" + tag + total.to_bytes(16, "big"))
    for level, step in enumerate(path, start=1):
        pair = a_list(step, level)
        need(len(pair) == 2, "structure", level, f"{where}: a step is a digest and a sum")
        sibling = unhex(pair[0], 32, level, f"{where}: sibling digest")
        beside = amount(pair[1], level, f"{where}: sibling sum")
        if index >> (level - 1) & 1:
            digest = node_digest(level, sibling, beside, digest, total)
        else:
            digest = node_digest(level, digest, total, sibling, beside)
        total += beside
        need(total < SUM_LIMIT, "sum-range", level, f"{where}: the sum is not below 2^127")
    need(total == int(entry["total"]), "climb-total", height, f"{where}: it ends at {total}, not {entry['total']}")
    need(digest.hex() == entry["root"], "climb-root", height, f"{where}: it ends at another root than the manifest's")


class Proof(NamedTuple):
    """A proof file that was checked."""

    account: str
    manifest: Manifest
    statement: dict[str, int]
    chunks: list[dict[str, Any]]
    anchored: bool


def check_statement(proof: dict[str, Any], account: str, manifest: Manifest) -> dict[str, int]:
    """Refuse unless statement and chunks are one set, add up, and climb to the manifest's roots."""
    statement: dict[str, int] = {}
    for one in a_list(proof["statement"], "statement"):
        asset = text(exact(one, "amount asset", "statement")["asset"], 32, "statement", "asset")
        need(asset not in statement, "statement-set", "statement", f"{shown(asset)} is stated twice")
        statement[asset] = amount(one["amount"], "statement", "amount")
    sums: dict[str, int] = {}
    numbers, indices = set(), set()
    for one in a_list(proof["chunks"], "chunks"):
        asset = text(exact(one, "amount asset chunk index leaf_secret path", "chunks")["asset"], 32, "chunks", "asset")
        number = asset, integer(one["chunk"], 0, 2**32 - 1, 0, "chunk number")
        need(asset in statement, "statement-set", "statement", f"chunks of {shown(asset)}, which is not stated")
        need(asset in manifest.assets, "statement-set", "manifest", f"{shown(asset)} is not in the manifest")
        need(number not in numbers, "chunk-distinct", 0, f"{asset}: chunk {number[1]} is given twice")
        climb(one, account, manifest.assets[asset])
        need((asset, one["index"]) not in indices, "index-distinct", 0, f"{asset}: index {one['index']} is given twice")
        numbers.add(number)
        indices.add((asset, one["index"]))
        sums[asset] = sums.get(asset, 0) + int(one["amount"])
    for asset, stated in statement.items():
        need(asset in sums, "statement-set", "statement", f"{shown(asset)} is stated and has no chunks")
        found = sums[asset]
        need(found == stated, "statement-sum", "statement", f"{asset}: chunks add up to {found}, not {stated}")
    return statement


def check_proof(value: Any, trust: Trust) -> Proof:
    """Check a proof file's object, all of it."""
    proof = exact(value, "v account key_epoch statement chunks manifest signature key_id log", "file")
    need(proof["v"] == "por/1", "version", "file", f"format {shown(proof['v'])}, not 'por/1'")
    named = isinstance(proof["account"], str) and re.fullmatch("[a-z0-9-]{1,64}", proof["account"])
    need(named, "account", "file", f"account {shown(proof['account'])} is not 1 to 64 of a-z, 0-9 and -")
    integer(proof["key_epoch"], 0, 2**32 - 1, "file", "key_epoch")
    need(isinstance(proof["manifest"], str), "structure", "manifest", "not a text")
    try:
        manifest = read_manifest(proof["manifest"].encode("utf-8"))
    except UnicodeEncodeError:
        raise ProofError("json", "manifest", "no Unicode text") from None
    signature = unhex(proof["signature"], 64, "manifest", "signature")
    key_id = unhex(proof["key_id"], 8, "manifest", "key_id")
    if trust.keys:
        ours = sha256(trust.keys.manifest)[:8] == key_id
        need(ours, "key-id", "manifest", "signed by another key than the published")
        check_manifest_signature(manifest, signature, trust.keys)
    statement = check_statement(proof, proof["account"], manifest)
    return Proof(proof["account"], manifest, statement, proof["chunks"], check_log(manifest, proof["log"], trust))


# --- Commands -------------------------------------------------------------------------------------------------------


class Answer:
    """What a command found: lines for people, whether it is anchored, and why the check did not go to its end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.open: list[str] = []


def money(units: int, decimals: int) -> str:
    """Smallest units with a decimal point."""
    digits = str(units).rjust(decimals + 1, "0") if decimals <= 38 else str(units)
    return digits if decimals > 38 or not decimals else f"{digits[:-decimals]}.{digits[-decimals:]}"


def say_proof(answer: Answer, proof: Proof, trust: Trust) -> None:
    """Lines about a checked proof, and what it lacks."""
    answer.lines.append(f"account {proof.account} of {proof.manifest.day}, log entry {proof.manifest.value['seq']}")
    for asset, units in proof.statement.items():
        entry, count = proof.manifest.assets[asset], sum(one["asset"] == asset for one in proof.chunks)
        whole, stated = money(int(entry["total"]), entry["decimals"]), money(units, entry["decimals"])
        line = f"  {asset}: {stated} in {count} leaves of the published total {whole} (height {entry['height']})"
        answer.lines.append(line)
    if not proof.statement:
        answer.open.append("the file states no balance, so nothing of this account's was shown")
    if not proof.anchored:
        answer.open.append("NOT anchored: it takes " + trust.missing())


def command_proof(args: argparse.Namespace, answer: Answer) -> None:
    """A customer's proof file."""
    trust = read_trust(args)
    say_proof(answer, check_proof(strict_json(read_file(args.file), "file"), trust), trust)
    answer.lines += [NOT_PROVEN, DISCLOSES]


def command_history(args: argparse.Namespace, answer: Answer) -> None:
    """A folder of one account's proof files: every date between the first and last, and every link between them."""
    trust, proofs = read_trust(args), []
    try:
        names = sorted(name for name in os.listdir(args.dir) if name.endswith(".json"))
    except OSError as error:
        raise NotCheckedError(f"{args.dir}: {error}") from None
    need(0 < len(names) <= 10000, "history", "folder", f"{len(names)} proof files, not 1 to 10000")
    whole = sum(plain_size(os.path.join(args.dir, name)) for name in names)
    need(whole <= PACK_LIMIT, "size", "folder", f"{whole} bytes, at most {PACK_LIMIT} are read")
    for name in names:
        try:
            proofs.append(check_proof(strict_json(read_file(os.path.join(args.dir, name)), "file"), trust))
        except ProofError as error:
            raise ProofError(error.rule, error.level, f"{name!a}: {error.what}") from None
    check_chain(proofs)
    for proof in sorted(proofs, key=lambda one: one.manifest.value["seq"]):
        own = Answer()
        say_proof(own, proof, trust)
        answer.lines += own.lines + ([] if proof.statement else ["  no balance is stated"])
        if not proof.anchored:
            answer.open.append(f"{proof.manifest.value['close_date']} NOT anchored: it takes {trust.missing()}")
    known = {proof.manifest.value["seq"] for proof in proofs}
    size = max((one.size for one in trust.checkpoints), default=0)
    absent = size - min(known) - sum(seq < size for seq in known)
    if absent > 0:
        answer.lines.append(
            f"  {absent} later entries of the log are not in this folder: other dates, or corrections of these"
        )
    answer.lines.append(NOT_PROVEN)


def check_chain(proofs: list[Proof]) -> None:
    """Refuse a gap: a missing date, or a superseded version without its successor."""
    need(len({one.account for one in proofs}) == 1, "history-account", "folder", "files of several accounts")
    need(len({one.manifest.value["exchange"] for one in proofs}) == 1, "history-account", "folder", "several exchanges")
    by_seq: dict[int, dict[str, Any]] = {}
    last: dict[str, dict[str, Any]] = {}
    for m in sorted((one.manifest.value for one in proofs), key=lambda one: one["seq"]):  # type: dict[str, Any]
        where = f"{m['close_date']} version {m['version']}"
        need(m["seq"] not in by_seq, "history-gap", "folder", f"two files of log entry {m['seq']}")
        before = last.get(m["close_date"])
        follows = before is None or (m["version"], m["supersedes"]) == (before["version"] + 1, before["seq"])
        need(follows, "history-gap", "folder", f"{where} does not follow the version before it")
        by_seq[m["seq"]], last[m["close_date"]] = m, m
    days = sorted(last)
    for i in range(1, len(days)):
        step = date(days[i], "folder") - date(days[i - 1], "folder")
        need(step.days == 1, "history-gap", "folder", f"no proof between {days[i - 1]} and {days[i]}")
        newer = last[days[i]]["seq"] > last[days[i - 1]]["seq"]
        need(
            newer, "history-gap", "folder", f"{days[i]} was superseded when {days[i - 1]} was, its successor is missing"
        )
    roots: dict[int, bytes] = {}
    for one in proofs:
        if one.manifest.prev:
            prev = one.manifest.prev
            need(
                roots.setdefault(prev.size, prev.root) == prev.root, "fork", "folder", f"two roots at size {prev.size}"
            )


def command_consistency(args: argparse.Namespace, answer: Answer) -> None:
    """Two checkpoints and the proof between them."""
    keys = read_keys(read_file(args.key, 65536)) if args.key else None
    old, new = (read_checkpoint(read_text(path), level) for path, level in ((args.old, "old"), (args.new, "new")))
    need(old.origin == new.origin, "checkpoint-origin", "log", "checkpoints of two logs")
    size1, size2, hashes = read_link(read_file(args.proof))
    need((size1, size2) == (old.size, new.size), "log-size", "consistency", f"from {size1} to {size2}, not these two")
    verify_consistency(size1, old.root, size2, new.root, hashes)
    if keys:
        check_note_signature(old, keys, "old")
        check_note_signature(new, keys, "new")
    else:
        answer.open.append("NOT anchored: it takes the published key (--key)")
    answer.lines.append(f"the log {old.origin} of size {new.size} begins with the one of size {old.size}")


def command_tree(args: argparse.Namespace, answer: Answer) -> None:
    """Every leaf of one asset: root and total recomputed from the dump, which may be of any size."""
    trust = read_trust(args)
    entry, leaves = check_dump(args.dump)
    answer.lines.append(f"{entry['asset']}: {leaves} leaves climb to root {entry['root']} and total {entry['total']}")
    if not args.evidence:
        answer.open.append("NOT anchored: it takes the day's pack (--evidence), a checkpoint and the key")
        return
    manifest, anchored = check_pack(args.evidence, trust, Answer())
    in_it = manifest.assets.get(entry["asset"]) == entry
    need(in_it, "tree-entry", "manifest", f"the manifest of {manifest.day} has another entry for {entry['asset']}")
    answer.lines.append(f"it is the tree in the manifest of {manifest.day}")
    if not anchored:
        answer.open.append("NOT anchored: it takes " + trust.missing())


def check_dump(path: str) -> tuple[dict[str, Any], int]:
    """Refuse unless a dump's leaves climb to the root and total of its first line."""
    plain_size(path)
    try:
        with open(path, "rb") as file:
            head = file.readline(4097)
            entry = strict_json(head[:-1], "entry")
            _asset_entry(entry, "entry")
            need(head == jcs(entry) + b"\n", "canonical", "entry", "the first line is not a JCS entry and its line end")
            stack: list[tuple[int, bytes, int]] = []
            count, most = 0, 1 << entry["height"]
            for line in iter(lambda: file.readline(128), b""):
                match = re.fullmatch(b"([0-9a-f]{64}) (0|[1-9][0-9]{0,38})\n", line)
                need(match and count < most, "tree-leaf", 0, f"line {count + 2} is no `digest amount`, or one too many")
                assert match is not None
                node = 0, bytes.fromhex(match[1].decode()), amount(match[2].decode(), 0, f"leaf {count}")
                while stack and stack[-1][0] == node[0]:
                    level, digest, units = stack.pop()
                    node = level + 1, node_digest(level + 1, digest, units, node[1], node[2]), units + node[2]
                    need(node[2] < SUM_LIMIT, "sum-range", node[0], "a sum is not below 2^127")
                stack.append(node)
                count += 1
    except OSError as error:
        raise NotCheckedError(f"{path}: {error}") from None
    need(count == most, "tree-leaf", 0, f"{count} leaves, a tree of height {entry['height']} has {most}")
    need(stack[0][2] == int(entry["total"]), "climb-total", entry["height"], f"the leaves add up to {stack[0][2]}")
    need(stack[0][1].hex() == entry["root"], "climb-root", entry["height"], "the leaves climb to another root")
    return entry, count


def command_shard(args: argparse.Namespace, answer: Answer) -> None:
    """Find, open and check one user's sealed record in a shard."""
    trust = read_trust(args)
    raw = args.user_key if re.fullmatch("[0-9a-f]{64}", args.user_key) else read_text(args.user_key).strip()
    user_key = unhex(raw, 32, "key", "user key")
    folder = os.path.dirname(os.path.abspath(args.file))
    beside = [os.path.join(one, "manifest.json") for one in (folder, os.path.dirname(folder))]
    manifest = read_manifest(read_file(args.manifest or next(filter(os.path.isfile, beside), beside[0])))
    record = strict_json(open_record(read_file(args.file, SHARD_LIMIT), user_key, manifest.ctx), "record")
    need(isinstance(record, dict) and "manifest" not in record, "structure", "record", "not a proof record")
    proof = check_proof({**record, "manifest": manifest.data.decode("utf-8")}, trust)
    for one in proof.chunks:
        name = one["asset"].encode()
        secret = hmac256(user_key, b"por/v1/leaf\0" + manifest.ctx + bytes([len(name)]) + name)
        need(one["leaf_secret"] == secret.hex(), "leaf-secret", 0, f"{one['asset']}: not the secret of your own key")
    say_proof(answer, proof, trust)
    answer.lines += [NOT_PROVEN, DISCLOSES]


def open_record(shard: bytes, user_key: bytes, ctx: bytes) -> bytes:
    """The plaintext of the record with this user's locator; the record's size is found by its tag."""
    prk = hmac256(sha256(b"por/v1/file"), user_key)
    enc = hmac256(prk, ctx + b"\x01")
    mac = hmac256(prk, enc + ctx + b"\x02")
    locator, at, salted = hmac256(mac, b"por/v1/locator")[:16], -1, b"por/v1/file\0"
    sizes = [size for size in range(4096, min(len(shard), LIMIT) + 1, 4096) if len(shard) % (size + 64) == 0]
    need(sizes, "shard-size", "shard", f"{len(shard)} bytes are no whole records")
    while (at := shard.find(locator, at + 1)) >= 0:
        for size in (one for one in sizes if at % (one + 64) == 0):
            body, tag = shard[at : at + 32 + size], shard[at + 32 + size : at + 64 + size]
            if hmac.compare_digest(hmac256(mac, salted + body), tag):
                blocks = (hmac256(enc, body[16:32] + struct.pack(">Q", i)) for i in range(size // 32))
                stream = int.from_bytes(b"".join(blocks), "big")
                plain = (int.from_bytes(body[32:], "big") ^ stream).to_bytes(size, "big")
                length = int.from_bytes(plain[:4], "big")
                whole = length + 4 <= size and not any(plain[4 + length :]) and hmac256(mac, plain)[:16] == body[16:32]
                need(whole, "shard-record", "record", "length, padding or nonce are not the record's own")
                return plain[4 : 4 + length]
        raise ProofError("shard-tag", "record", "your record is there and was changed: its tag does not hold")
    raise ProofError("shard-locator", "shard", "no record of this user and day: another shard, day or key")


def command_evidence(args: argparse.Namespace, answer: Answer) -> None:
    """A day's evidence pack."""
    trust = read_trust(args)
    manifest, anchored = check_pack(args.zip, trust, answer)
    for entry in manifest.assets.values():
        answer.lines.append(f"  {entry['asset']}: owed to customers {money(int(entry['total']), entry['decimals'])}")
    if not anchored:
        answer.open.append("NOT anchored: it takes " + trust.missing())
    answer.lines.append(NOT_PROVEN)


def read_pack(path: str) -> dict[str, bytes]:
    """The files of a zip, in memory and within bounds; nothing is extracted. Names and sizes are judged first."""
    data = read_file(path, PACK_LIMIT)
    end = data[-22:]
    plain = len(end) == 22 and end[:4] == b"PK\x05\x06" and data[-42:-38] != b"PK\x06\x07"
    need(plain, "zip", "pack", "truncated, or not a plain zip: no end record at its end")
    count, size, offset, comment = struct.unpack("<HIIH", end[10:])
    fits = 0 < count <= 1000 and size <= 2**20 and offset + size + 22 == len(data) and not comment
    need(fits, "zip", "pack", f"{count} entries in a directory of {size} bytes")
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as pack:
            entries = pack.infolist()
            need(len(entries) == count, "zip", "pack", "entries and directory differ")
            whole = sum(one.file_size for one in entries)
            need(whole <= PACK_LIMIT, "size", "pack", f"{whole} bytes unpacked, at most {PACK_LIMIT} are read")
            for one in entries:
                name = one.filename
                safe = re.fullmatch("[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", name)
                need(safe and name == one.orig_filename and len(name) < 200, "zip-name", "pack", f"name {shown(name)}")
                need(name not in files, "zip-name", "pack", f"{name} is there twice")
                packed = one.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not one.flag_bits & 1
                need(packed, "zip", "pack", f"{name}: encrypted, or packed neither stored nor deflated")
                with pack.open(one) as file:
                    files[name] = file.read(one.file_size + 1)
                need(len(files[name]) == one.file_size, "zip", "pack", f"{name}: another size than stated")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
        raise ProofError("zip", "pack", f"damaged: {shown(str(error))}") from None
    return files


def check_pack(path: str, trust: Trust, answer: Answer) -> tuple[Manifest, bool]:
    """Check a pack: the list of files, the manifest, its signature and place in the log, and what it has digests of."""
    files = read_pack(path)

    def part(name: str) -> bytes:
        need(name in files, "pack-files", "pack", f"{name} is missing")
        return files[name]

    listed = {name: sha256(data).hex() for name, data in files.items() if name != "SHA256SUMS"}
    lines = "".join(f"{listed[name]}  {name}\n" for name in sorted(listed))
    need(part("SHA256SUMS") == lines.encode(), "pack-files", "pack", "SHA256SUMS is not the list of the files, by name")
    manifest = read_manifest(part("manifest.json"))
    signature = unhex(part("manifest.sig").decode("ascii", "replace").rstrip("\n"), 64, "manifest", "signature")
    if trust.keys:
        check_manifest_signature(manifest, signature, trust.keys)
    log = exact(strict_json(part("log_proof.json"), "log"), "index size hashes consistency", "log")
    link = log.pop("consistency")
    note = part("checkpoint.txt").decode("utf-8", "replace")
    anchored = check_log(manifest, {**log, "checkpoint": note}, trust)
    if manifest.prev:
        hashes = [unhex(one, 32, "log", "hash") for one in a_list(link, "log", 128)]
        checkpoint = read_checkpoint(note, "log")
        verify_consistency(manifest.prev.size, manifest.prev.root, checkpoint.size, checkpoint.root, hashes)
    for name, key in (("policy.json", "policy_sha256"), ("verdicts.json", "verdicts_sha256")):
        need(sha256(part(name)).hex() == manifest.value[key], key, "manifest", f"{name} is not what the manifest names")
    check_totals(strict_json(part("control_totals.json"), "control_totals"), manifest)
    check_books(files, manifest)
    verdicts = a_list(strict_json(files["verdicts.json"], "verdicts"), "verdicts")
    for one in verdicts:
        exact(one, "gate scope verdict waiver", "verdicts")
    answer.lines.append(f"{manifest.day}, log entry {manifest.value['seq']}: {len(files)} files are what the list says")
    passed = sum(one["verdict"] == "pass" for one in verdicts)
    answer.lines.append(f"  {passed} of {len(verdicts)} gates passed")
    for one in verdicts:
        if one["verdict"] != "pass":
            gate, scope, verdict, waiver = (shown(one[key]) for key in ("gate", "scope", "verdict", "waiver"))
            answer.lines.append(f"  NOT passed: {gate} {scope}: {verdict}, waiver {waiver}")
    loose = sorted(name for name in listed if name not in BOUND)
    if loose:
        answer.lines.append("  Under no signature, so no more than what the pack's giver says: " + ", ".join(loose))
    return manifest, anchored


BOOKS = {"marks": "asset price source at", "readings": "source subject at sha256"}
BOUND = {f"{name}.json" for name in ("manifest", "log_proof", "control_totals", "policy", "verdicts", "books", *BOOKS)}
BOUND |= {"manifest.sig", "checkpoint.txt"}  # what the signature or the log holds, or is held to them


def check_books(files: dict[str, bytes], manifest: Manifest) -> None:
    """Refuse unless what the pack says of the books is under the manifest's books hash: digests, marks, readings."""
    if "books.json" not in files:
        for name in BOOKS:
            need(name + ".json" not in files, "pack-files", "pack", f"{name}.json without books.json")
        return
    names = "balances engine_balances journals marks readings"
    tables = exact(strict_json(files["books.json"], "books"), names, "books")
    digests = {}
    for name, table in tables.items():
        rows = integer(exact(table, "rows sha256", "books")["rows"], 0, SAFE, "books", f"rows of {name}")
        digests[name] = unhex(table["sha256"], 32, "books", name).hex()
        if name in BOOKS:
            need(name + ".json" in files, "pack-files", "pack", f"{name}.json is missing")
            found = a_list(strict_json(files[name + ".json"], name, 4 * LIMIT), name)
            hashes = []
            for one in found:
                fields = [exact(one, BOOKS[name], name)[key] or "" for key in BOOKS[name].split()]
                plain = all(isinstance(x, str) and re.fullmatch("[\x20-\x7e]*", x) for x in fields)
                need(plain, "text", name, "a field is not printable ASCII")
                hashes.append(sha256(("\t".join(fields) + "\n").encode()))
            same = len(found) == rows and sha256(b"".join(sorted(hashes))).hex() == digests[name]
            need(same, "books", name, f"{name}.json is not the table of the books hash")
    header = {key: manifest.value[key] for key in ("close_date", "version", "barrier_seq", "policy_sha256")}
    whole = sha256(jcs({"v": "books/1", **header, **digests})).hex()
    need(whole == manifest.value["books_sha256"], "books", "books", "books.json is not what the books hash is of")


def check_totals(value: Any, manifest: Manifest) -> None:
    """Refuse unless the ledger's control totals add up to 0 per asset and are those of the manifest.

    They are [{amount, asset, liability_class}], credits positive: what is owed, held, earned and lent.
    """
    sums: dict[tuple[str, str], int] = {}
    for one in a_list(value, "control_totals"):
        exact(one, "amount asset liability_class", "control_totals")
        kind = text(one["liability_class"], 32, "control_totals", "class")
        key = kind, text(one["asset"], 32, "control_totals", "asset")
        negative = isinstance(one["amount"], str) and one["amount"].startswith("-")
        units = amount(one["amount"][1:] if negative else one["amount"], "control_totals", "amount")
        need(key not in sums, "control-totals", "control_totals", f"{key[0]} {key[1]} is there twice")
        sums[key] = -units if negative else units
    for asset in sorted({asset for _, asset in sums}):
        rest = sum(units for key, units in sums.items() if key[1] == asset)
        need(not rest, "control-totals", "control_totals", f"{asset}: debits and credits differ by {rest}, not 0")
    stated: dict[tuple[str, str], int] = {}
    for asset, entry in manifest.assets.items():
        stated["customer", asset] = int(entry["total"])
    for kind, name, sign in (("other_liability", "other_liabilities", 1), ("receivable", "receivables", -1)):
        for one in manifest.value[name]:
            stated[kind, one["asset"]] = stated.get((kind, one["asset"]), 0) + sign * int(one["amount"])
    for kind, asset in sorted(set(sums) | set(stated)):
        if kind in ("customer", "other_liability", "receivable"):
            books, told = sums.get((kind, asset), 0), stated.get((kind, asset), 0)
            need(books == told, "control-totals", "manifest", f"{kind} {asset}: ledger {books}, manifest {told}")


def read_text(path: str) -> str:
    """A small text file."""
    try:
        return read_file(path, 65536).decode("utf-8")
    except UnicodeDecodeError:
        raise ProofError("text", "file", f"{path}: not UTF-8") from None


def read_trust(args: argparse.Namespace) -> Trust:
    """Read what the reader brought from elsewhere."""
    keys = read_keys(read_file(args.key, 65536)) if args.key else None
    checkpoints = [read_checkpoint(read_text(path), "checkpoint") for path in args.checkpoint]
    return Trust(keys, checkpoints, [read_link(read_file(path)) for path in args.consistency])


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Check proofs of reserves. Exit 0 valid, 1 invalid, 2 not checked.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, places in (
        ("proof", command_proof, ["file"]),
        ("history", command_history, ["dir"]),
        ("evidence", command_evidence, ["zip"]),
        ("tree", command_tree, ["dump"]),
        ("shard", command_shard, ["file"]),
        ("consistency", command_consistency, ["old", "new", "proof"]),
    ):
        command = commands.add_parser(name, help=run.__doc__)
        for place in places:
            command.add_argument(place, metavar=place.upper())
        command.add_argument("--key", metavar="FILE", help="the exchange's published keys, from elsewhere")
        command.add_argument("--json", action="store_true", help="one JSON object instead of text")
        command.set_defaults(run=run)
        if name != "consistency":
            given: dict[str, Any] = {"metavar": "FILE", "action": "append", "default": []}
            command.add_argument("--checkpoint", help="of the log, from elsewhere; may be repeated", **given)
            command.add_argument("--consistency", help="a proof to your checkpoint; may be repeated", **given)
        if name == "tree":
            command.add_argument("--evidence", metavar="ZIP", help="the day's evidence pack")
        if name == "shard":
            command.add_argument("--user-key", metavar="FILE", required=True, help="your key: a file, or 64 hex digits")
            command.add_argument("--manifest", metavar="FILE", help="the day's manifest.json, if not by the shard")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 valid, 1 invalid, 2 not checked to the end."""
    args, answer = arguments().parse_args(argv), Answer()
    found: dict[str, Any] = {"result": "valid", "exit": 0, "rule": None, "level": None}
    try:
        args.run(args, answer)
        if answer.open:
            found.update(result="not checked to the end", exit=2)
        head = "VALID" if not answer.open else "consistent, " + "; ".join(answer.open)
    except (ProofError, RecursionError) as error:
        refused = error if isinstance(error, ProofError) else ProofError("json", "file", "nested too deeply")
        found.update(result="invalid", exit=1, rule=refused.rule, level=refused.level)
        head, answer.lines = f"INVALID: {refused}", []
    except (NotCheckedError, MemoryError) as error:
        found.update(result="not checked to the end", exit=2)
        head, answer.lines = f"NOT CHECKED: {error or 'out of memory'}", []
    lines = [json.dumps({**found, "says": [head, *answer.lines]})] if args.json else [head, *answer.lines]
    sys.stdout.write("\n".join(lines).encode("ascii", "backslashreplace").decode() + "\n")
    return int(found["exit"])


if __name__ == "__main__":
    sys.exit(main())
