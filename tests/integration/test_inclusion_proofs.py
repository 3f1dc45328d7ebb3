"""Proofs of sealed days: every account's in shards, single ones and histories by command, checked by the verifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.errors import GateError, InputError
from engine.reserves.checkpoint import parse_checkpoint
from engine.reserves.keys import KeyRing
from engine.reserves.verifier import compline_verify
from engine.steps import inclusion_proofs
from engine.store import reopening, seals
from pipelines.cli.app import app
from pipelines.key_store import rotate_keys
from tests.fixtures.books import BookUnderTest
from tests.fixtures.proof_files import run_verifier


def _folder(book: BookUnderTest, day: object) -> Path:
    return book.opened.files.evidence_dir / book.opened.book.name / f"{day}-v1"


def _customers(book: BookUnderTest, day: object) -> list[str]:
    with book.admin() as connection:
        rows = connection.execute(
            "SELECT DISTINCT account FROM close.user_balance_snapshots WHERE close_date = %s AND total <> 0", (day,)
        ).fetchall()
    return sorted(row[0] for row in rows)


@pytest.fixture
def anchor(sealed_book: BookUnderTest, tmp_path: Path) -> list[object]:
    """The keys and the log's newest checkpoint, brought from elsewhere."""
    with sealed_book.app() as connection:
        (tmp_path / "checkpoint").write_text(seals.last_checkpoint(connection) or "", encoding="utf-8")
    shutil.copy(_folder(sealed_book, sealed_book.days[1]) / "keys.txt", tmp_path / "key")
    return ["--checkpoint", tmp_path / "checkpoint", "--key", tmp_path / "key"]


def test_every_customer_opens_a_valid_record_with_a_key_of_their_own(
    sealed_book: BookUnderTest, tmp_path: Path, anchor: list[object]
) -> None:
    day = sealed_book.days[1]
    folder = _folder(sealed_book, day)
    index = json.loads((folder / "shards" / "index.json").read_bytes())
    ring = KeyRing(sealed_book.keys.reserve, sealed_book.opened.book.exchange)
    customers = _customers(sealed_book, day)
    assert index["records"] == len(customers) > 10
    for account in customers:
        arguments = ["shard", folder / "shards" / "all.shard", "--manifest", folder / "manifest.json"]
        arguments += ["--user-key", ring.user_key(account).hex(), *anchor, "--json"]
        assert compline_verify.main([str(one) for one in arguments]) == 0


def test_a_proof_states_what_the_snapshot_says(
    sealed_book: BookUnderTest, tmp_path: Path, anchor: list[object]
) -> None:
    day = sealed_book.days[1]
    account = _customers(sealed_book, day)[0]
    with sealed_book.closing(day) as context, sealed_book.app() as connection:
        proof = inclusion_proofs.prove(connection, context, account)
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    assert run_verifier("proof", tmp_path / "proof.json", *anchor).code == 0
    with sealed_book.admin() as connection:
        rows = connection.execute(
            "SELECT s.asset, (s.total * 10::numeric ^ a.decimals)::numeric(60, 0)::text"
            " FROM close.user_balance_snapshots s JOIN exchange.assets a USING (asset)"
            " WHERE close_date = %s AND account = %s AND total <> 0",
            (day, account),
        ).fetchall()
    assert {one["asset"]: one["amount"] for one in proof["statement"]} == dict(rows)


def test_proofs_can_be_made_again_byte_for_byte(book: BookUnderTest) -> None:
    day = book.days[0]
    first = book.close(day)
    shards = _folder(book, day) / "shards"
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    shutil.rmtree(shards)
    shutil.rmtree(shards.with_name("trees"))
    again = {result.step: result for result in book.close(day)}
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before
    assert not again["inclusion_proofs"].unchanged
    digests = {result.step: result.output_digest for result in first}
    assert again["inclusion_proofs"].output_digest == digests["inclusion_proofs"]
    assert all(result.unchanged for result in book.close(day))


def test_an_account_without_balance_and_a_date_without_seal_are_refused(sealed_book: BookUnderTest) -> None:
    with sealed_book.closing(sealed_book.days[0]) as context, sealed_book.app() as connection:
        with pytest.raises(InputError, match="no balance"):
            inclusion_proofs.prove(connection, context, "nobody")
        with pytest.raises(GateError, match="not sealed"):
            inclusion_proofs.prove(connection, context, "nobody", version=2)


def _compline(book: BookUnderTest, *words: object) -> tuple[int, str]:
    arguments = [*map(str, words), "--book", book.opened.book.name, "--json"]
    done = CliRunner().invoke(app, ["reserves", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def test_commands_give_what_the_verifier_takes(
    sealed_book: BookUnderTest, tmp_path: Path, anchor: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = sealed_book.days
    account = _customers(sealed_book, first)[0]
    code, _ = _compline(sealed_book, "prove", account, last, "--out", tmp_path)
    assert code == 0
    assert run_verifier("proof", tmp_path / f"proof-{account}.json", *anchor).code == 0

    code, _ = _compline(sealed_book, "prove", account, first, "--newest", "--dry-run", "--out", tmp_path / "dry")
    assert (code, (tmp_path / "dry").exists()) == (0, False)

    code, said = _compline(sealed_book, "history", account, first, last, "--out", tmp_path)
    assert (code, json.loads(said)["files"]) == (0, 2)
    history = tmp_path / f"history-{account}"
    assert run_verifier("history", history, *anchor).code == 0
    for path in history.iterdir():
        log = json.loads(path.read_text())["log"]
        assert parse_checkpoint(log["checkpoint"]).checkpoint.size == log["size"] == 2
    assert _compline(sealed_book, "history", account, first, "2031-01-01", "--out", tmp_path)[0] == 1
    assert _compline(sealed_book, "history", account, last, first, "--out", tmp_path)[0] >= 64
    assert _compline(sealed_book, "prove", "nobody", last, "--out", tmp_path)[0] != 0

    assert _compline(sealed_book, "user-key", account, "--dry-run")[0] == 0
    code, said = _compline(sealed_book, "user-key", account)
    key = json.loads(said)["user_key"]
    assert code == 0
    code, said = _compline(sealed_book, "shard", account, last)
    found = json.loads(said)
    mine = ["shard", found["shard"], "--manifest", found["manifest"], "--user-key", key]
    assert run_verifier(*mine, *anchor).code == 0
    assert _compline(sealed_book, "user-key", "nobody")[0] >= 64
    code, refused = _compline(sealed_book, "user-key", account)
    assert code == 1
    assert key not in refused
    assert "was given at" in refused
    assert _compline(sealed_book, "user-key", account, "--again", "  ")[0] == 1
    code, said = _compline(sealed_book, "user-key", account, "--again", "the statement page was lost")
    assert (code, json.loads(said)["user_key"]) == (0, key)
    times = sealed_book.value("SELECT count(*) FROM reserves.user_keys_given WHERE account = %s", account)
    assert times == 2

    wrapped = CliRunner().invoke(app, ["reserves", "verify", str(tmp_path / f"proof-{account}.json"), "--json"])
    assert wrapped.exit_code == 2
    wrapped = CliRunner().invoke(app, ["reserves", "verify", str(history), *map(str, anchor)])
    assert wrapped.exit_code == 0


def test_a_date_before_a_new_master_key_is_still_proven(book: BookUnderTest, tmp_path: Path) -> None:
    first = book.days[0]
    book.close(first)
    account = _customers(book, first)[0]
    with book.app() as connection:
        rotate_keys(book.opened.settings, book.opened.card, connection, new_master=True)
    shutil.copy(_folder(book, first) / "checkpoint.txt", tmp_path / "checkpoint")
    shutil.copy(_folder(book, first) / "keys.txt", tmp_path / "key")
    code, said = _compline(book, "prove", account, first, "--out", tmp_path)
    assert code == 0, said
    anchor = ["--checkpoint", tmp_path / "checkpoint", "--key", tmp_path / "key"]
    assert run_verifier("proof", tmp_path / f"proof-{account}.json", *anchor).code == 0


def test_a_history_over_a_reopened_date_has_every_version_and_misses_none(book: BookUnderTest, tmp_path: Path) -> None:
    first, last = book.days
    for day in book.days:
        book.close(day)
    account = _customers(book, first)[0]
    with book.app() as connection:
        reopening.reopen(connection, first, reason="BTC was marked twice", maker="ada", checker="ben")
    for day in book.days:
        book.close(day)
    with book.app() as connection:
        (tmp_path / "checkpoint").write_text(seals.last_checkpoint(connection) or "", encoding="utf-8")
    shutil.copy(_folder(book, first) / "keys.txt", tmp_path / "key")
    anchor = ["--checkpoint", tmp_path / "checkpoint", "--key", tmp_path / "key"]
    code, said = _compline(book, "history", account, first, last, "--out", tmp_path)
    assert (code, json.loads(said)["files"]) == (0, 4)
    history = tmp_path / f"history-{account}"
    assert run_verifier("history", history, *anchor).code == 0
    (history / f"proof-{last}-v2.json").unlink()
    run = run_verifier("history", history, *anchor)
    assert (run.code, run.rule) == (1, "history-gap")
    assert "successor is missing" in run.said
