"""What the parsers of manifests and checkpoints refuse, and the words they do it with."""

import dataclasses
import json

import pytest

from engine.canonical import jcs
from engine.reserves.checkpoint import CheckpointError, parse_checkpoint, parse_vkey, sign_checkpoint, verify_checkpoint
from engine.reserves.entries import GateVerdict, OtherLiability, Receivable, ReserveEntry, verdicts_sha256
from engine.reserves.fields import FormatError, load_strict_json
from engine.reserves.key_file import (
    parse_published_keys,
    published_keys_text,
)
from engine.reserves.keys import derive_demo_keys
from engine.reserves.manifest import (
    ManifestError,
    SignedManifest,
    parse_manifest,
    sign_manifest,
    verify_manifest,
)
from engine.reserves.merkle import EMPTY_ROOT
from engine.reserves.signing import SignatureError
from tests.fixtures.reserve_parts import HEADER, KEYS, manifest_of, tree_of


def test_manifest_sorts_its_lists_and_round_trips():
    manifest = manifest_of()
    assert [entry.asset for entry in manifest.assets] == ["AAA", "BTC"]
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert json.loads(manifest.to_bytes())["reserves_root"] != EMPTY_ROOT.hex()
    assert json.loads(manifest_of(reserves=[]).to_bytes())["reserves_root"] == EMPTY_ROOT.hex()


def test_duplicate_entries_are_refused_by_the_builder():
    entry = tree_of([("a", 5)]).entry
    reserve = ReserveEntry("BTC", "bitcoin", "bc1", 5, 9, "00", "bip-322")
    for changes in (
        {"assets": [entry, entry]},
        {"reserves": [reserve, dataclasses.replace(reserve, amount=6)]},
        {"other_liabilities": [OtherLiability("x", "BTC", 1)] * 2},
        {"receivables": [Receivable("BTC", 1), Receivable("BTC", 2)]},
    ):
        with pytest.raises(ManifestError, match="strictly ascending"):
            manifest_of(**changes)


def test_reclose_names_what_it_supersedes():
    second = dataclasses.replace(HEADER, seq=1, version=2)
    checkpoint = sign_checkpoint("unit.exchange", 1, b"\0" * 32, KEYS.checkpoint_signer())
    assert manifest_of(second, supersedes=0, prev_checkpoint=checkpoint).supersedes == 0
    for supersedes in (None, 1, -1, True):
        with pytest.raises(ManifestError):
            manifest_of(second, supersedes=supersedes, prev_checkpoint=checkpoint)
    with pytest.raises(ManifestError):
        manifest_of(supersedes=0)


def test_prev_checkpoint_is_that_of_size_seq_of_this_log():
    second = dataclasses.replace(HEADER, seq=2)
    signer = KEYS.checkpoint_signer()
    good = sign_checkpoint("unit.exchange", 2, b"\0" * 32, signer)
    manifest_of(second, prev_checkpoint=good)
    for header, text in (
        (second, None),
        (HEADER, good),
        (second, sign_checkpoint("unit.exchange", 1, b"\0" * 32, signer)),
        (second, sign_checkpoint("other.exchange", 2, b"\0" * 32, signer)),
        (second, good[:-1]),
        (second, "\ud800"),
        (second, good.replace("— unit", "— \ud800")),
        (second, good.replace("— unit", "— \x00")),
        (second, 7),
    ):
        with pytest.raises(FormatError):
            manifest_of(header, prev_checkpoint=text)


def _tampered(path, value):
    content = json.loads(manifest_of().to_bytes())
    target = content
    for key in path[:-1]:
        target = target[key]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return jcs(content)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("extra",), "x"),
        (("supersedes",), None),
        (("v",), "por/2"),
        (("seq",), True),
        (("seq",), -1),
        (("seq",), "0"),
        (("close_date",), "2026-02-30"),
        (("close_date",), "20260105"),
        (("snapshot_at",), "2026-01-06T00:00:00"),
        (("snapshot_at",), "2026-01-06T25:00:00Z"),
        (("books_sha256",), "AB" * 32),
        (("books_sha256",), "ab" * 31),
        (("exchange",), "é"),
        (("verdicts_sha256",), 5),
        (("snapshot_root",), "00" * 32),
        (("reserves_root",), "00" * 32),
        (("assets",), {}),
        (("assets", 0), []),
        (("assets", 0, "total"), "07"),
        (("assets", 0, "total"), "-7"),
        (("assets", 0, "total"), 7),
        (("assets", 0, "total"), str(2**127)),
        (("assets", 0, "total"), "٧"),
        (("assets", 0, "height"), 41),
        (("assets", 0, "height"), 0),
        (("assets", 0, "height"), True),
        (("assets", 0, "more"), 1),
        (("assets", 0, "root"), None),
        (("reserves", 0, "amount"), "1.0"),
        (("receivables", 0, "asset"), ""),
        (("other_liabilities", 0, "account"), "x\ty"),
    ],
)
def test_tampered_manifests_are_refused(path, value):
    with pytest.raises(ManifestError) as raised:
        parse_manifest(_tampered(path, value))
    assert raised.value.rule


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"seq":0', '"seq": 0'),
        lambda text: text + "\n",
        lambda text: text[:-1],
        lambda text: text.replace('"seq":0', '"seq":0,"seq":0'),
        lambda text: text.replace('"seq":0', '"seq":0.0'),
        lambda text: text.replace('"seq":0', '"seq":0e0'),
        lambda text: text.replace('"seq":0', '"seq":-0'),
        lambda text: text.replace('"seq":0', '"seq":NaN'),
        lambda text: text.replace('"seq":0', '"seq":' + "9" * 5000),
        lambda text: text.replace("unit.exchange", "unit\\u002eexchange"),
        lambda text: "[" * 100_000,
        lambda text: "\ufeff" + text,
        lambda text: "",
        lambda text: "[]",
    ],
)
def test_texts_that_are_not_their_own_jcs_are_refused(change):
    with pytest.raises(ManifestError):
        parse_manifest(change(manifest_of().to_bytes().decode()).encode())


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(ManifestError):
        parse_manifest(b"\xff" + manifest_of().to_bytes())


def test_strict_json_reads_no_more_than_its_limit():
    with pytest.raises(FormatError, match="11 bytes"):
        load_strict_json(b" " * 11, longest=10, where="text")


def test_signature_is_bound_to_prefix_bytes_and_key():
    signed = sign_manifest(manifest_of(), KEYS.manifest_signer())
    public = KEYS.manifest_signer().public_key
    assert verify_manifest(signed, public) == manifest_of()
    bare = KEYS.manifest_signer().sign_manifest_message(signed.data)
    stranger = derive_demo_keys(2).manifest_signer()
    for bad in (
        SignedManifest(signed.data, bare, signed.key_id),
        SignedManifest(signed.data + b" ", signed.signature, signed.key_id),
        SignedManifest(signed.data, signed.signature[:-1], signed.key_id),
        SignedManifest(signed.data, signed.signature, "00" * 8),
        sign_manifest(manifest_of(), stranger),
    ):
        with pytest.raises(SignatureError):
            verify_manifest(bad, public)


def test_verdicts_digest_ignores_order_and_refuses_two_for_one_gate():
    one, two = GateVerdict("a", "BTC", "pass"), GateVerdict("a", "ETH", "fail", "w-1")
    assert verdicts_sha256([one, two]) == verdicts_sha256([two, one])
    assert verdicts_sha256([one]) != verdicts_sha256([dataclasses.replace(one, verdict="unknown")])
    with pytest.raises(ValueError, match="two verdicts"):
        verdicts_sha256([one, dataclasses.replace(one, verdict="fail")])


def _checkpoint(size=3):
    return sign_checkpoint("unit.exchange", size, bytes(32), KEYS.checkpoint_signer())


def _vkey():
    return parse_published_keys(published_keys_text(KEYS, "unit.exchange")).checkpoint_key


def test_cosignatures_by_other_keys_are_passed_over():
    other = sign_checkpoint("unit.exchange", 3, bytes(32), derive_demo_keys(2).checkpoint_signer())
    text = _checkpoint() + other.split("\n\n")[1]
    assert verify_checkpoint(text, _vkey()).size == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n3\n", "\n03\n"),
        lambda text: text.replace("\n3\n", "\n-3\n"),
        lambda text: text.replace("\n\n", "\nextension\n\n"),
        lambda text: text[:-1],
        lambda text: text.split("—")[0],
        lambda text: text.replace("—", "-"),
        lambda text: text.replace("A=\n\n", "B=\n\n"),
        lambda text: text.replace("A=\n\n", "AAAA=\n\n"),
        lambda text: "x" * 100_000,
    ],
)
def test_malformed_checkpoints_are_refused(change):
    with pytest.raises(CheckpointError):
        parse_checkpoint(change(_checkpoint()))


def test_changed_or_foreign_checkpoints_are_refused():
    for text in (
        _checkpoint().replace("\n3\n", "\n4\n"),
        sign_checkpoint("other.exchange", 3, bytes(32), KEYS.checkpoint_signer()),
        sign_checkpoint("unit.exchange", 3, bytes(32), derive_demo_keys(2).checkpoint_signer()),
    ):
        with pytest.raises(SignatureError):
            verify_checkpoint(text, _vkey())


@pytest.mark.parametrize("exchange", ["a b", "a+b"])
def test_exchange_names_that_a_note_cannot_carry_are_refused(exchange):
    with pytest.raises(CheckpointError):
        sign_checkpoint(exchange, 1, bytes(32), KEYS.checkpoint_signer())


def test_root_of_another_length_is_not_signed():
    with pytest.raises(CheckpointError):
        sign_checkpoint("unit.exchange", 1, bytes(31), KEYS.checkpoint_signer())


@pytest.mark.parametrize("text", ["", "x", "a+00000000+AVLYHBzNIFOb5VCPjXMd6a4OTWn1g4lfw2mlRFGK3Eqf", "a+b+c"])
def test_malformed_vkeys_are_refused(text):
    with pytest.raises(CheckpointError):
        parse_vkey(text)
