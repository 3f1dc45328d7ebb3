"""The verifier on histories, dumps, shards and consistency proofs: good ones, and what is wrong with the others."""

import json

import pytest

from engine.canonical import jcs
from engine.reserves.merkle import consistency_proof, leaf_hash
from engine.reserves.proof import proof_record
from engine.reserves.shard import join_shard, record_size, seal_record
from engine.reserves.verifier import compline_verify
from tests.fixtures.proof_files import pack_entries, pack_zip, run_verifier, small_log


@pytest.fixture(scope="module")
def log():
    return small_log(days=4)


@pytest.fixture
def folder(log, tmp_path):
    (tmp_path / "key").write_text(log.key_file())
    for size in range(1, 5):
        (tmp_path / f"checkpoint-{size}").write_text(log.checkpoints[size])
    return tmp_path


@pytest.fixture
def anchor(folder):
    return ["--checkpoint", folder / "checkpoint-4", "--key", folder / "key"]


def _history(folder, log, indices, size=4):
    place = folder / "history"
    place.mkdir()
    for index in indices:
        (place / f"proof-{index}.json").write_text(json.dumps(log.proof("acct-1", index, size or index + 1)))
    return place


def test_a_whole_history_is_valid(folder, log, anchor):
    run = run_verifier("history", _history(folder, log, range(4)), *anchor)
    assert run.code == 0, run.said
    assert run.said.count("account acct-1") == 4
    assert "not in this folder" not in run.said


def test_entries_after_the_last_file_are_said(folder, log, anchor):
    """A correction of the last date cannot be told from a later date by files that are not there."""
    run = run_verifier("history", _history(folder, log, [1, 2]), *anchor)
    assert (run.code, "1 later entries of the log are not in this folder" in run.said) == (0, True)


def test_a_missing_day_is_a_gap(folder, log, anchor):
    run = run_verifier("history", _history(folder, log, [0, 1, 3]), *anchor)
    assert (run.code, run.rule) == (1, "history-gap")


def test_each_days_own_checkpoint_anchors_it(folder, log):
    place = _history(folder, log, range(4), size=None)
    key = ["--key", folder / "key"]
    assert run_verifier("history", place, "--checkpoint", folder / "checkpoint-4", *key).code == 2
    everything = [word for size in range(1, 5) for word in ("--checkpoint", folder / f"checkpoint-{size}")]
    assert run_verifier("history", *everything, *key, place).code == 0


def test_an_older_proof_is_anchored_by_consistency(folder, log, anchor):
    (folder / "proof").write_text(json.dumps(log.proof("acct-1", 0, 2)))
    assert run_verifier("proof", folder / "proof", *anchor).code == 2
    hashes = [leaf_hash(leaf) for leaf in log.leaves]
    link = {"hashes": [one.hex() for one in consistency_proof(hashes, 2)], "size1": 2, "size2": 4}
    (folder / "link").write_text(json.dumps(link))
    assert run_verifier("proof", folder / "proof", *anchor, "--consistency", folder / "link").code == 0
    (folder / "link").write_text(json.dumps({**link, "hashes": ["00" * 32]}))
    run = run_verifier("proof", folder / "proof", *anchor, "--consistency", folder / "link")
    assert (run.code, run.rule) == (1, "log-consistency")


def test_two_accounts_in_one_history_are_refused(folder, log, anchor):
    place = _history(folder, log, [0, 1])
    (place / "proof-1.json").write_text(json.dumps(log.proof("acct-2", 1, 4)))
    assert run_verifier("history", place, *anchor).rule == "history-account"


def test_a_folder_without_proofs_is_refused(folder, anchor):
    (folder / "history").mkdir()
    assert run_verifier("history", folder / "history", *anchor).rule == "history"
    assert run_verifier("history", folder / "absent", *anchor).code == 2


def _versions(*stated):
    """Bare manifests for the rules of a chain: (close_date, version, seq, supersedes)."""
    proofs = []
    for close_date, version, seq, supersedes in stated:
        value = {"close_date": close_date, "version": version, "seq": seq, "supersedes": supersedes, "exchange": "x"}
        manifest = compline_verify.Manifest(b"", value, b"", {}, None)
        proofs.append(compline_verify.Proof("acct-1", manifest, {}, [], True))
    return proofs


def test_superseded_versions_are_followed_by_their_successors():
    first, second = ("2026-01-04", 1, 0, None), ("2026-01-05", 1, 1, None)
    first2, second2 = ("2026-01-04", 2, 2, 0), ("2026-01-05", 2, 3, 1)
    compline_verify.check_chain(_versions(first, second, first2, second2))
    compline_verify.check_chain(_versions(first2, second2))
    compline_verify.check_chain(_versions(second, first))
    for stated in [
        (first, second, first2),
        (first2, second),
        (first, ("2026-01-04", 3, 4, 2)),
        (first, ("2026-01-04", 2, 2, 1)),
        (first, first),
        (first, ("2026-01-06", 1, 1, None)),
    ]:
        with pytest.raises(compline_verify.ProofError, match="history-gap"):
            compline_verify.check_chain(_versions(*stated))


def _dump(tree):
    lines = "".join(f"{digest.hex()} {units}\n" for digest, units in tree.levels[0])
    return jcs(tree.entry.as_dict()) + b"\n" + lines.encode()


def test_a_dump_gives_root_and_total_of_the_packs_entry(folder, log, anchor):
    (folder / "dump").write_bytes(_dump(log.trees[1][0]))
    (folder / "pack.zip").write_bytes(pack_zip(pack_entries(log, 1)))
    assert run_verifier("tree", folder / "dump").code == 2
    assert run_verifier("tree", folder / "dump", "--evidence", folder / "pack.zip").code == 2
    assert run_verifier("tree", folder / "dump", "--evidence", folder / "pack.zip", *anchor).code == 0
    (folder / "pack.zip").write_bytes(pack_zip(pack_entries(log, 2)))
    run = run_verifier("tree", folder / "dump", "--evidence", folder / "pack.zip", *anchor)
    assert (run.code, run.rule) == (1, "tree-entry")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda data: data[:-1], "tree-leaf"),
        (lambda data: data + b"\n", "tree-leaf"),
        (lambda data: data + data.splitlines(keepends=True)[-1], "tree-leaf"),
        (lambda data: b"".join(data.splitlines(keepends=True)[:-1]), "tree-leaf"),
        (lambda data: b"".join([*(lines := data.splitlines(keepends=True))[:1], *lines[:0:-1]]), "climb-root"),
        (lambda data: data.replace(b" 0\n", b" 1\n", 1), "climb-total"),
        (lambda data: data.replace(b" 0\n", b" 00\n", 1), "tree-leaf"),
        (lambda data: data.replace(b" 0\n", b" %d\n" % 2**127, 1), "sum-range"),
        (lambda data: b" " + data, "canonical"),
        (lambda data: data.replace(b'"height":3', b'"height":40'), "tree-leaf"),
        (lambda data: b"", "json"),
        (lambda data: b"\0" * 100_000, "json"),
    ],
)
def test_a_dump_that_was_changed_is_refused(folder, log, change, rule):
    (folder / "dump").write_bytes(change(_dump(log.trees[1][0])))
    run = run_verifier("tree", folder / "dump")
    assert (run.code, run.rule) == (1, rule), run.said


def test_a_user_opens_their_record_in_a_shard(folder, log, anchor):
    ctx = log.trees[3][0].ctx
    records = {account: proof_record(log.proof(account, 3)) for account in ("acct-1", "acct-2", "acct-3")}
    size = record_size(max(map(len, records.values())))
    shard = join_shard(seal_record(log.ring.user_key(name), ctx, plain, size) for name, plain in records.items())
    (folder / "99e").write_bytes(shard)
    (folder / "manifest.json").write_bytes(log.leaves[3])
    (folder / "mine").write_text(log.ring.user_key("acct-2").hex() + "\n")
    mine = ["--user-key", folder / "mine", "--manifest", folder / "manifest.json"]
    run = run_verifier("shard", folder / "99e", *mine, *anchor)
    assert run.code == 0, run.said
    assert "account acct-2" in run.said
    assert run_verifier("shard", folder / "99e", *mine[:2], *anchor).code == 0, "the manifest lies beside it"
    at = shard.index(compline_verify.hmac256(_mac(log, ctx), b"por/v1/locator")[:16])
    spoiled = {
        "shard-tag": shard[: at + 100] + bytes([shard[at + 100] ^ 1]) + shard[at + 101 :],
        "shard-size": shard[:-1],
        "shard-locator": shard[:at] + shard[at + size + 64 :],
    }
    for rule, data in spoiled.items():
        (folder / "99e").write_bytes(data)
        run = run_verifier("shard", folder / "99e", *mine, *anchor)
        assert (run.code, run.rule) == (1, rule)


def _mac(log, ctx):
    prk = compline_verify.hmac256(compline_verify.sha256(b"por/v1/file"), log.ring.user_key("acct-2"))
    enc = compline_verify.hmac256(prk, ctx + b"\1")
    return compline_verify.hmac256(prk, enc + ctx + b"\2")


def test_a_record_of_another_day_or_with_another_secret_is_refused(folder, log, anchor):
    ctx, key = log.trees[3][0].ctx, log.ring.user_key("acct-1")
    (folder / "mine").write_text(key.hex())
    (folder / "manifest.json").write_bytes(log.leaves[3])
    mine = ["--user-key", folder / "mine", "--manifest", folder / "manifest.json"]
    (folder / "old").write_bytes(seal_record(key, log.trees[2][0].ctx, proof_record(log.proof("acct-1", 2)), 4096))
    assert run_verifier("shard", folder / "old", *mine, *anchor).rule == "shard-locator"
    theirs = proof_record(log.proof("acct-2", 3))
    (folder / "swapped").write_bytes(seal_record(key, ctx, theirs, 4096))
    assert run_verifier("shard", folder / "swapped", *mine, *anchor).rule == "leaf-secret"


def test_no_balance_stated_is_nothing_shown(folder, log, anchor):
    empty = {**log.proof("acct-1", 3), "statement": [], "chunks": []}
    (folder / "proof").write_text(json.dumps(empty))
    run = run_verifier("proof", folder / "proof", *anchor)
    assert run.code == 2
    assert "states no balance" in run.said
