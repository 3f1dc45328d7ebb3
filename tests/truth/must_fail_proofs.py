"""Attacks on one account's proof file.

What belongs here: cases, and what a case is. What does not: attacks on an evidence pack (see `must_fail_packs`).
"""

# ruff: noqa: E501 -- a table reads best with one attack a line
from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.canonical import jcs
from engine.reserves.checkpoint import sign_checkpoint
from engine.reserves.keys import derive_demo_keys
from engine.reserves.manifest import SIGNATURE_PREFIX
from engine.reserves.merkle import inclusion_proof, leaf_hash, merkle_root, root_of_hashes
from engine.reserves.signing import key_id
from tests.fixtures.proof_files import EXCHANGE, SmallLog

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A file to be refused. `rule` is what both verifiers name; `content` is made when it is asked for, where it is large."""

    name: str
    content: bytes | Callable[[], bytes]
    rule: str
    attack: str

    @property
    def data(self) -> bytes:
        return self.content() if callable(self.content) else self.content

    @property
    def command(self) -> str:
        return "evidence" if self.name.endswith(".zip") else "proof"


def _edit(good: Json, change: Callable[[Json], None]) -> bytes:
    proof = copy.deepcopy(good)
    change(proof)
    return json.dumps(proof).encode()


def _set(*path: Any) -> Callable[[Json], None]:
    """Set the value at a path: keys, then the value."""

    def change(proof: Json) -> None:
        spot: Any = proof
        for key in path[:-2]:
            spot = spot[key]
        spot[path[-2]] = path[-1](spot[path[-2]]) if callable(path[-1]) else path[-1]

    return change


def _more(text: str, by: int) -> str:
    return str(int(text) + by)


def _shift(proof: Json) -> None:
    chunk = proof["chunks"][0]
    chunk["amount"] = _more(chunk["amount"], -1)
    proof["statement"][0]["amount"] = _more(proof["statement"][0]["amount"], -1)
    chunk["path"][0][1] = _more(chunk["path"][0][1], 1)


def _swap(proof: Json) -> None:
    path = proof["chunks"][0]["path"]
    path[0], path[1] = path[1], path[0]


def _twice(proof: Json) -> None:
    chunk = proof["chunks"][0]
    proof["chunks"].append(copy.deepcopy(chunk))
    proof["statement"][0]["amount"] = _more(proof["statement"][0]["amount"], int(chunk["amount"]))


def _overflow(proof: Json) -> None:
    proof["chunks"][0]["path"][0][1] = str(2**127 - 1)
    proof["chunks"][0]["path"][1][1] = str(2**127 - 1)


def _signed_proof(log: SmallLog, good: Json, change: Callable[[Json], None], *, recut: bool = True) -> bytes:
    """The proof with a changed manifest that the exchange itself signs and logs: only the format's rules refuse it."""
    manifest = json.loads(good["manifest"])
    change(manifest)
    if recut:
        manifest["snapshot_root"] = merkle_root(jcs(entry) for entry in manifest["assets"]).hex()
    data = jcs(manifest)
    return json.dumps({**good, **_logged(log, data)}).encode()


def _logged(log: SmallLog, data: bytes) -> Json:
    signature = log.keys.manifest_signer().sign_manifest_message(SIGNATURE_PREFIX + data)
    hashes = [leaf_hash(log.leaves[0]), leaf_hash(data)]
    note = sign_checkpoint(EXCHANGE, 2, root_of_hashes(hashes), log.keys.checkpoint_signer())
    proof = [one.hex() for one in inclusion_proof(hashes, 1)]
    return {
        "manifest": data.decode(),
        "signature": signature.hex(),
        "log": {"index": 1, "size": 2, "hashes": proof, "checkpoint": note},
    }


def _two_entries(manifest: Json) -> None:
    manifest["assets"].insert(1, {**manifest["assets"][0], "total": "1"})


def proof_cases(log: SmallLog) -> Iterator[Case]:
    """Attacks on one account's proof file."""
    good = log.proof("acct-1", 1)
    chunk = "chunks", 0
    step = (*chunk, "path", 0)
    changes: list[tuple[str, str, str, Callable[[Json], None]]] = [
        ("amount-raised", "climb-total", "the leaf claims one unit more than was committed to", _set(*chunk, "amount", lambda x: _more(x, 1))),
        ("sums-shifted", "climb-root", "one unit of the customer's is moved to the neighbour, every total stays", _shift),
        ("sibling-negative", "amount", "a negative sibling hides what is owed (the flaw of child sums that are not bound)", _set(*step, 1, "-9")),
        ("sibling-overflows", "sum-range", "a sibling sum of 2^127 wraps in fixed-width arithmetic", _set(*step, 1, str(2**127))),
        ("sums-overflow-together", "sum-range", "two allowed sums add up beyond 2^127", _overflow),
        ("sibling-digest-short", "hex", "a digest of 31 bytes", _set(*step, 0, lambda x: x[2:])),
        ("sibling-digest-not-hex", "hex", "a digest with a letter that is no hex digit", _set(*step, 0, lambda x: "g" + x[1:])),
        ("sibling-digest-upper-case", "hex", "a second text for the same digest", _set(*step, 0, lambda x: x.upper())),
        ("children-swapped", "climb-root", "the index of the sibling: left and right are swapped at level 1", _set(*chunk, "index", lambda x: x ^ 1)),
        ("steps-swapped", "climb-root", "two steps of the path change places", _swap),
        ("path-long", "path-length", "a path of one level more: an inner node passed off as a leaf", _set(*chunk, "path", lambda x: [*x, x[0]])),
        ("path-short", "path-length", "a path of one level less: a subtree passed off as the tree", _set(*chunk, "path", lambda x: x[:-1])),
        ("index-beyond-tree", "index-range", "an index with a bit that no level uses: one leaf under two numbers", _set(*chunk, "index", lambda x: x + 8)),
        ("index-huge", "number", "an integer of 4000 digits", _set(*chunk, "index", 10**4000)),
        ("index-true", "integer", "`true` counts as 1 in some languages", _set(*chunk, "index", True)),
        ("index-negative", "number", "an index of -1 picks the last leaf in some languages", _set(*chunk, "index", -1)),
        ("index-fraction", "number", "an index with a fraction", _set(*chunk, "index", 1.0)),
        ("chunk-number-huge", "integer", "a chunk number that does not fit its four bytes", _set(*chunk, "chunk", 2**32)),
        ("chunk-twice", "chunk-distinct", "one leaf is counted twice, and the statement raised to match", _twice),
        ("chunk-missing", "statement-sum", "a chunk is left out: part of the balance is in no tree", _set("chunks", lambda x: x[1:])),
        ("asset-without-chunks", "statement-set", "the statement names an asset that is proven nowhere", _set("statement", lambda x: [*x, {"asset": "ETH", "amount": "1"}])),
        ("amount-leading-zero", "amount", "a second text for the same amount", _set(*chunk, "amount", lambda x: "0" + x)),
        ("amount-number", "amount", "an amount as a JSON number, which readers round", _set(*chunk, "amount", int)),
        ("another-users-leaf", "climb-root", "another user's leaf and secret under this account's name", _set("chunks", 0, log.proof("acct-2", 1)["chunks"][0])),
        ("another-account", "climb-root", "the file of one account shown to another", _set("account", "acct-2")),
        ("leaf-secret-short", "hex", "a leaf secret of 31 bytes", _set(*chunk, "leaf_secret", lambda x: x[2:])),
        ("manifest-of-another-day", "signature", "yesterday's manifest under today's signature", _set("manifest", log.leaves[0].decode())),
        ("day-of-another-signed", "climb-total", "yesterday's manifest, rightly signed and in the log, for today's balance", _yesterday(log)),
        ("manifest-changed", "signature", "changed after signing: version 1 is passed off as version 2", _set("manifest", lambda x: x.replace('"version":1', '"version":2').replace('"supersedes":null', '"supersedes":0'))),
        ("manifest-not-canonical", "canonical", "a space: a second text for the same manifest", _set("manifest", lambda x: x.replace(",", ", ", 1))),
        ("manifest-unknown-key", "structure", "a key that the format does not know", _set("manifest", lambda x: x[:-1] + ',"zz":1}')),
        ("signature-changed", "signature", "one bit of the signature", _set("signature", lambda x: ("0" if x[0] != "0" else "1") + x[1:])),
        ("signature-malleable", "signature", "S + L instead of S: the second signature of sloppy verifiers", _set("signature", _malleable)),
        ("signature-without-prefix", "signature", "a signature over the manifest without the format's prefix", _set("signature", _plain_signature(log, good))),
        ("key-id-of-another", "key-id", "another key's id", _set("key_id", "00" * 8)),
        ("log-index-not-seq", "log-index", "the place in the log is not the one that the leaves are bound to", _set("log", "index", 0)),
        ("log-size-changed", "log-size", "another size than the checkpoint's", _set("log", "size", 3)),
        ("log-hash-missing", "log-inclusion", "the inclusion proof is a hash short", _set("log", "hashes", [])),
        ("log-hash-more", "log-inclusion", "the inclusion proof has a hash more", _set("log", "hashes", lambda x: x * 2)),
        ("checkpoint-signature", "checkpoint-signature", "a checkpoint that the log's key did not sign", _set("log", "checkpoint", _broken_note)),
        ("checkpoint-cosigned-only", "checkpoint-key", "a checkpoint signed by a stranger alone", _set("log", "checkpoint", _strangers_note(log))),
        ("key-unknown", "structure", "a key that the format does not know", _set("note", "x")),
        ("key-missing", "structure", "a key is missing", lambda proof: proof.pop("key_epoch")),
        ("version-unknown", "version", "another format", _set("v", "por/2")),
    ]  # fmt: skip
    for name, rule, attack, change in changes:
        yield Case(f"{name}.json", _edit(good, change), rule, attack)
    entry = log.proof("acct-2", 1)
    yield Case(
        "another-key.json",
        json.dumps({**good, **_another_key(good)}).encode(),
        "key-id",
        "all of it signed again by a key of the attacker's",
    )
    yield Case(
        "two-entries-for-one-asset.json",
        _signed_proof(log, entry, _two_entries),
        "order",
        "correctly signed: two trees for one asset, one for some users and one for the others",
    )
    yield Case(
        "assets-out-of-order.json",
        _signed_proof(log, good, lambda m: m["assets"].reverse()),
        "order",
        "correctly signed: entries out of order",
    )
    yield Case(
        "snapshot-root-of-others.json",
        _signed_proof(log, good, lambda m: m.update(snapshot_root="00" * 32), recut=False),
        "snapshot-root",
        "correctly signed: the root is not that of the entries",
    )
    yield Case(
        "height-wrong.json",
        _signed_proof(log, good, lambda m: m["assets"][0].update(height=4)),
        "path-length",
        "correctly signed: the entry states another height",
    )
    yield Case(
        "height-of-41.json",
        _signed_proof(log, good, lambda m: m["assets"][0].update(height=41)),
        "integer",
        "correctly signed: a height beyond 40",
    )
    yield Case(
        "total-wrong.json",
        _signed_proof(log, good, lambda m: m["assets"][0].update(total="1")),
        "climb-total",
        "correctly signed: the published total is not the tree's",
    )
    yield Case(
        "supersedes-missing.json",
        _signed_proof(log, good, lambda m: m.update(version=2)),
        "supersedes",
        "correctly signed: a second version that supersedes nothing",
    )
    yield Case(
        "log-forked-leaves-kept.json",
        _forked(log, good),
        "fork",
        "correctly signed, in a second log that the reader's checkpoint knows nothing of",
    )
    text = json.dumps(good)
    yield Case(
        "duplicate-key.json",
        text.replace('"account":', '"account": "acct-2", "account":', 1).encode(),
        "duplicate-key",
        "a key given twice: readers differ in which one counts",
    )
    yield Case(
        "duplicate-key-in-chunk.json",
        text.replace('"chunk": 0', '"chunk": 0, "chunk": 0', 1).encode(),
        "duplicate-key",
        "a key given twice inside a chunk",
    )
    yield Case(
        "exponent.json", text.replace('"size": 2', '"size": 2e0', 1).encode(), "number", "a number with an exponent"
    )
    yield Case(
        "nan.json",
        text.replace('"size": 2', '"size": NaN', 1).encode(),
        "number",
        "NaN, which is not JSON and which readers take",
    )
    yield Case("truncated.json", text[: len(text) // 2].encode(), "json", "half of a file")
    yield Case("nested-deeply.json", b'{"v":' * 3 + b"[" * 100_000, "json", "nesting that overflows a reader's stack")
    yield Case("byte-order-mark.json", b"\xef\xbb\xbf" + text.encode(), "json", "bytes before the text")
    yield Case("not-utf-8.json", text.encode().replace(b"acct-1", b"acct-\xff", 1), "json", "bytes that are no text")


def _malleable(signature: str) -> str:
    order = 2**252 + 27742317777372353535851937790883648493
    raw = bytes.fromhex(signature)
    return (raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")).hex()


def _plain_signature(log: SmallLog, good: Json) -> str:
    return log.keys.manifest_signer().sign_manifest_message(good["manifest"].encode()).hex()


def _yesterday(log: SmallLog) -> Callable[[Json], None]:
    before = log.proof("acct-1", 0)
    return lambda proof: proof.update({key: before[key] for key in ("manifest", "signature", "log")})


def _broken_note(note: str) -> str:
    head, _, line = note.rpartition(" ")
    return f"{head} {line[:20]}{'A' if line[20] != 'A' else 'B'}{line[21:]}"


def _strangers_note(log: SmallLog) -> str:
    return sign_checkpoint(EXCHANGE, 2, merkle_root(log.leaves), derive_demo_keys(1).checkpoint_signer())


def _another_key(good: Json) -> Json:
    signer = derive_demo_keys(1).manifest_signer()
    signature = signer.sign_manifest_message(SIGNATURE_PREFIX + good["manifest"].encode())
    return {"signature": signature.hex(), "key_id": key_id(signer.public_key)}


def _forked(log: SmallLog, good: Json) -> bytes:
    """The same header and leaves, other reserves: everything holds but the reader's own checkpoint."""
    manifest = json.loads(good["manifest"])
    manifest["receivables"] = [{"amount": "1", "asset": "BTC"}]
    return json.dumps({**good, **_logged(log, jcs(manifest))}).encode()
