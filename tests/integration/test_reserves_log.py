"""The log as a person checks it: everything recomputed, tampering shown, rotations followed, keys in a keeper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pymerkle import InmemoryTree
from typer.testing import CliRunner

from engine.canonical import jcs
from engine.errors import GateError
from engine.reserves.checkpoint import sign_checkpoint
from engine.reserves.key_file import published_keys_text, read_key_file
from engine.reserves.keys import KeySet, generate_keys
from engine.reserves.kms import KmsKeys
from engine.reserves.log_check import LogReport, check_log
from engine.reserves.rotation import KeysInForce, Rotation, RotationError, fingerprint_of, make_rotation, walk
from engine.reserves.signing import SignatureError, key_id
from engine.store import log, rotations, seals
from pipelines.cli.app import app as cli
from pipelines.key_store import key_path, rotate_keys
from tests.fixtures.books import BookUnderTest
from tests.fixtures.proof_files import run_verifier

EXCHANGE = "test.example"


def published(keys: KeySet) -> list[KeysInForce]:
    return [KeysInForce(0, published_keys_text(keys, EXCHANGE))]


def checked(book: BookUnderTest, connection: psycopg.Connection, kept: list[str]) -> LogReport:
    return check_log(log.rows(connection), published(book.keys), kept)


def checkpoints(book: BookUnderTest) -> list[str]:
    with book.app() as app:
        return [str(row.checkpoint) for row in log.rows(app)]


@contextmanager
def tampering(book: BookUnderTest) -> Iterator[psycopg.Connection]:
    """The owner with every guard off, rolled back afterwards."""
    with book.admin() as owner, owner.transaction(force_rollback=True):
        owner.execute("ALTER TABLE close.seals DISABLE TRIGGER USER")
        owner.execute("ALTER TABLE reserves.log_entries DISABLE TRIGGER USER")
        yield owner


def test_log_of_sealed_days_holds_with_every_checkpoint_that_was_kept(sealed_book: BookUnderTest) -> None:
    kept = checkpoints(sealed_book)
    with sealed_book.app() as app:
        report = checked(sealed_book, app, kept)
        rows = log.rows(app)
        theirs = InmemoryTree()
        for row in rows:
            theirs.append_entry(row.entry)
        assert theirs.get_root().hex() == report.lines[-1].root == log.ManifestLog(app).get_root().hex()
    assert report.problems == []
    assert [line.close_date for line in report.lines] == [str(day) for day in sealed_book.days]


def test_dropped_entry_is_shown_by_a_checkpoint_that_was_kept(sealed_book: BookUnderTest) -> None:
    kept = checkpoints(sealed_book)
    with tampering(sealed_book) as owner:
        owner.execute("SET CONSTRAINTS ALL DEFERRED")
        owner.execute("DELETE FROM reserves.log_entries WHERE log_index = 1")
        owner.execute("DELETE FROM close.seals WHERE log_index = 1")
        assert checked(sealed_book, owner, []).problems == [], "the rest is a log of its own"
        [problem] = checked(sealed_book, owner, kept[1:]).problems
    assert "entries were dropped" in problem


def test_log_rewritten_by_whoever_holds_the_keys_is_shown_by_a_checkpoint_that_was_kept(
    sealed_book: BookUnderTest,
) -> None:
    """The keeper of keys and database puts another manifest in the place of the last, all signatures right."""
    from engine.reserves.manifest import SIGNATURE_PREFIX
    from engine.reserves.merkle import merkle_root

    kept, keys = checkpoints(sealed_book), sealed_book.keys
    with tampering(sealed_book) as owner:
        rows = log.rows(owner)
        value = json.loads(rows[1].entry)
        value["verdicts_sha256"] = "ab" * 32
        data = jcs(value)
        note = sign_checkpoint(EXCHANGE, 2, merkle_root([rows[0].entry, data]), keys.checkpoint_signer())
        owner.execute(
            "UPDATE reserves.log_entries SET entry = %s, leaf_hash = sha256('\\x00'::bytea || %s) WHERE log_index = 1",
            (data, data),
        )
        signature = keys.manifest_signer().sign_manifest_message(SIGNATURE_PREFIX + data)
        owner.execute(
            "UPDATE close.seals SET manifest = %s, signature = %s, checkpoint = %s WHERE log_index = 1",
            (data.decode(), signature.hex(), note),
        )
        assert checked(sealed_book, owner, []).problems == []
        assert checked(sealed_book, owner, kept[:1]).problems == [], "what an older checkpoint covers is untouched"
        [problem] = checked(sealed_book, owner, kept).problems
    assert "rewritten" in problem


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE close.seals SET signature = repeat('0', 128) WHERE log_index = 0", "signature does not hold"),
        ("UPDATE close.seals SET key_id = repeat('0', 16) WHERE log_index = 0", "signed by key"),
        ("UPDATE close.seals SET manifest = replace(manifest, '2', '3') WHERE log_index = 0", "not those of its seal"),
        (
            "UPDATE close.seals s SET checkpoint = o.checkpoint FROM close.seals o"
            " WHERE s.log_index = 1 AND o.log_index = 0",
            "another log",
        ),
        ("DELETE FROM reserves.log_entries WHERE log_index = 0", "an entry is missing"),
    ],
)
def test_single_change_of_a_row_is_named(sealed_book: BookUnderTest, statement: str, why: str) -> None:
    with tampering(sealed_book) as owner:
        owner.execute("SET CONSTRAINTS ALL DEFERRED")
        owner.execute(statement.encode())
        problems = checked(sealed_book, owner, []).problems
    assert any(why in problem for problem in problems), problems


def test_checkpoint_by_another_key_is_refused(sealed_book: BookUnderTest) -> None:
    other = sign_checkpoint(EXCHANGE, 1, bytes(32), generate_keys().checkpoint_signer())
    with sealed_book.app() as app:
        [problem] = checked(sealed_book, app, [other]).problems
    assert "no signature by" in problem


# Rotations.


def test_day_sealed_after_a_rotation_is_signed_by_the_new_key_and_leads_back_to_the_first(
    book: BookUnderTest,
) -> None:
    first, second = book.days
    book.close(first)
    settings, name = book.opened.settings, book.opened.book.name
    old = book.keys
    with book.app(autocommit=False) as app:
        path = rotate_keys(settings, book.opened.card, app)
    new = read_key_file(path)
    assert new.reserve == old.reserve, "users keep their keys"
    kept = path.with_name(f"{path.name}.{key_id(old.manifest_signer().public_key)}")
    assert read_key_file(kept) == old
    with pytest.raises(GateError, match="does not sign this log"):
        book.close(second)
    book.keys = new
    assert book.close(second)[-1].step == "evidence_packs"
    with book.app() as app:
        changes, rows = rotations.read(app), log.rows(app)
        chain = walk(changes, EXCHANGE)
        report = check_log(rows, chain, [str(row.checkpoint) for row in rows])
    assert report.problems == []
    assert [one.since for one in chain] == [0, 1]
    assert chain[0].text == published_keys_text(old, EXCHANGE)
    assert [line.key_id for line in report.lines] == [key_id(k.manifest_signer().public_key) for k in (old, new)]
    assert check_log(rows, published(old)).problems, "the old key alone does not open the second entry"
    assert fingerprint_of(chain[0].text) != fingerprint_of(chain[1].text)
    assert key_path(settings, name) == path


def test_rotation_cut_short_after_its_record_is_ended_by_running_it_again(
    book: BookUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, card = book.opened.settings, book.opened.card
    path = key_path(settings, card.book.name)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"), book.app(autocommit=False) as app:
            rotate_keys(settings, card, app)
    assert read_key_file(path) == book.keys
    with book.app(autocommit=False) as app:
        rotate_keys(settings, card, app)
        assert len(rotations.read(app)) == 1
        app.rollback()
        rotate_keys(settings, card, app)
        assert len(rotations.read(app)) == 2
    assert published_keys_text(read_key_file(path), EXCHANGE) == walk(_records(book), EXCHANGE)[-1].text


def _records(book: BookUnderTest) -> list[Rotation]:
    with book.app() as app:
        return rotations.read(app)


def test_keys_put_in_place_without_a_rotation_seal_nothing(book: BookUnderTest) -> None:
    first, second = book.days
    book.close(first)
    book.keys = generate_keys()
    with pytest.raises(GateError, match="no rotation leads to other keys"):
        book.close(second)


def test_chain_of_rotations_is_refused_where_anything_in_it_was_changed() -> None:
    one, two, three = (generate_keys(n) for n in (1, 2, 3))
    first = make_rotation(one, two, exchange=EXCHANGE, log_size=3)
    second = make_rotation(two, three, exchange=EXCHANGE, log_size=5, before=[first])
    assert [each.since for each in walk([first, second], EXCHANGE)] == [0, 3, 5]
    stranger = make_rotation(generate_keys(), three, exchange=EXCHANGE, log_size=5)
    for broken in (
        [second],
        [first, stranger],
        [first, replace(second, record=second.record.replace('"log_size":5', '"log_size":6'))],
        [first, replace(second, signatures={**second.signatures, "old_manifest": "00" * 64})],
        [first, replace(second, signatures={**second.signatures, "new_checkpoint": "00" * 64})],
        [first, first],
    ):
        with pytest.raises((RotationError, SignatureError)):
            walk(broken, EXCHANGE)
    with pytest.raises(RotationError, match="another log"):
        walk([first], "other.example")
    with pytest.raises(RotationError, match="keeps a key"):
        make_rotation(one, replace(two, checkpoint_seed=one.checkpoint_seed), exchange=EXCHANGE, log_size=3)


# Keys that a keeper holds.


class FakeKms:
    """A KMS: keys by name that never leave it."""

    def __init__(self) -> None:
        self._keys = {name: Ed25519PrivateKey.generate() for name in ("manifests", "checkpoints")}
        self.signed: list[tuple[str, int]] = []

    def public_key(self, name: str) -> bytes:
        return self._keys[name].public_key().public_bytes_raw()

    def sign(self, name: str, message: bytes) -> bytes:
        self.signed.append((name, len(message)))
        return self._keys[name].sign(message)


def test_day_is_sealed_by_keys_that_a_kms_holds(book: BookUnderTest) -> None:
    kms = FakeKms()
    keys = KmsKeys(generate_keys().reserve, kms, "manifests", "checkpoints")
    assert book.close(book.days[0], load_keys=lambda: keys)[-1].step == "evidence_packs"
    assert {name for name, _ in kms.signed} == {"manifests", "checkpoints"}
    with book.app() as app:
        found = check_log(log.rows(app), [KeysInForce(0, published_keys_text(keys, EXCHANGE))])
        assert seals.last_key_id(app) == key_id(kms.public_key("manifests"))
    assert found.problems == []


# The command.


def test_command_shows_the_log_and_compares_what_was_kept(
    sealed_book: BookUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text(checkpoints(sealed_book)[0], encoding="utf-8")
    key = tmp_path / "keys.txt"
    key.write_text(published_keys_text(sealed_book.keys, EXCHANGE), encoding="utf-8")
    monkeypatch.setenv("COMPLINE_HOME", str(sealed_book.opened.settings.home))
    name = sealed_book.opened.book.name
    done = CliRunner().invoke(
        cli, ["reserves", "log", "--book", name, "--checkpoint", str(kept), "--key", str(key), "--json"]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (len(said["entries"]), said["checkpoints_compared"], said["problems"]) == (2, 1, [])
    kept.write_text(sign_checkpoint(EXCHANGE, 9, bytes(32), sealed_book.keys.checkpoint_signer()), encoding="utf-8")
    done = CliRunner().invoke(cli, ["reserves", "log", "--book", name, "--checkpoint", str(kept)])
    assert done.exit_code == 1
    kept.write_text("nonsense", encoding="utf-8")
    assert CliRunner().invoke(cli, ["reserves", "log", "--book", name, "--checkpoint", str(kept)]).exit_code == 1
    other = tmp_path / "other.txt"
    other.write_text(published_keys_text(generate_keys(), EXCHANGE), encoding="utf-8")
    assert CliRunner().invoke(cli, ["reserves", "log", "--book", name, "--key", str(other)]).exit_code == 1


def test_command_prints_a_consistency_proof_that_the_verifier_takes(
    sealed_book: BookUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPLINE_HOME", str(sealed_book.opened.settings.home))
    name, files = sealed_book.opened.book.name, []
    for n, text in enumerate(checkpoints(sealed_book)):
        files.append(tmp_path / f"checkpoint-{n + 1}.txt")
        files[-1].write_text(text, encoding="utf-8")
    proof, key = tmp_path / "consistency.json", tmp_path / "keys.txt"
    key.write_text(published_keys_text(sealed_book.keys, EXCHANGE), encoding="utf-8")
    for sizes, judged in ((["1"], 0), (["1", "1"], 1), (["2", "2"], 1)):
        done = CliRunner().invoke(cli, ["reserves", "consistency", *sizes, "--book", name])
        assert done.exit_code == 0, done.output
        proof.write_text(done.stdout, encoding="utf-8")
        assert run_verifier("consistency", *files, proof, "--key", key).code == judged
    for sizes in (["0"], ["2", "1"], ["1", "3"]):
        assert CliRunner().invoke(cli, ["reserves", "consistency", *sizes, "--book", name]).exit_code == 65
