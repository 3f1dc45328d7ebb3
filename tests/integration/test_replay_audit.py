"""The replay audit: the order journal and the packs give what was sealed, and a change of either is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ComplineError, InputError
from engine.reserves.key_file import published_keys_text
from engine.reserves.keys import generate_keys
from engine.reserves.log_check import check_log
from engine.reserves.pack import read_pack, write_pack
from engine.reserves.rotation import KeysInForce
from engine.reserves.verifier import compline_verify
from engine.steps.evidence_packs import pack_files
from engine.steps.pack import Pack
from engine.steps.replay_audit import Audit, audit
from engine.store import log
from pipelines.evidence import packs_up_to, sealed_trees
from tests.fixtures.books import BookUnderTest

ROOT = Path(__file__).resolve().parents[2]


def folder(book: BookUnderTest) -> Path:
    return book.opened.files.evidence_dir / book.opened.book.name


def journal(book: BookUnderTest) -> Path:
    return book.opened.files.journal_dir


def audited(book: BookUnderTest, packs: list[Pack], tmp_path: Path, **given: object) -> Audit:
    return audit(journal(book), packs, scratch=tmp_path / "trees", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("nth", [0, 1])
def test_journal_packs_and_master_key_give_every_digest_and_root_that_was_sealed(
    sealed_book: BookUnderTest, tmp_path: Path, nth: int
) -> None:
    found = audited(
        sealed_book,
        packs_up_to(folder(sealed_book), sealed_book.days[nth]),
        tmp_path,
        master=sealed_book.keys.reserve,
        published_keys=published_keys_text(sealed_book.keys, "test.example"),
    )
    assert found.first_difference is None, found.first_difference
    names = {one.what for one in found.comparisons}
    assert {"books hash", "tree of BTC", "digest of journals", "fees swept, by user, asset and role"} <= names
    assert not [note for note in found.notes if "roots" in note or "house balances" in note or "signature" in note]


def test_one_pack_alone_is_enough_and_says_what_it_took_from_it(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    packs = packs_up_to(folder(sealed_book), sealed_book.days[1])[-1:]
    found = audited(sealed_book, packs, tmp_path)
    assert found.first_difference is None
    assert len([note for note in found.notes if "at hand" in note or "roots" in note or "signature" in note]) == 3


def test_dumps_stand_in_for_the_master_key(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    day = sealed_book.days[0]
    dumps = []
    for asset, arena in sealed_trees(sealed_book.opened, day).items():
        path = tmp_path / f"{asset}.dump"
        path.write_bytes(b"".join(arena.dump_lines()))
        dumps.append(compline_verify.check_dump(str(path))[0])
    packs = packs_up_to(folder(sealed_book), day)
    found = audited(sealed_book, packs, tmp_path, dumps=dumps)
    assert found.first_difference is None
    assert not [note for note in found.notes if "roots" in note]
    dumps[0]["root"] = "00" * 32
    different = audited(sealed_book, packs, tmp_path, dumps=dumps).first_difference
    assert different is not None
    assert different.what.startswith("dump of")


def test_another_master_key_gives_other_roots(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    packs = packs_up_to(folder(sealed_book), sealed_book.days[0])
    different = audited(sealed_book, packs, tmp_path, master=generate_keys().reserve).first_difference
    assert different is not None
    assert different.what == "tree of BTC"


def test_manifest_of_another_key_is_refused(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    packs = packs_up_to(folder(sealed_book), sealed_book.days[0])
    with pytest.raises(ComplineError, match=r"signature|signed"):
        audited(sealed_book, packs, tmp_path, published_keys=published_keys_text(generate_keys(), "test.example"))


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("marks.json", lambda rows: rows[0].update(price="1.5"), "marks that are last trades"),
        ("close_journals.json", lambda rows: rows.pop(), "fees swept, by user, asset and role"),
        ("close_journals.json", lambda rows: rows[0].update(reference_id="x"), "fees swept, by user, asset and role"),
        ("close_journals.json", lambda rows: rows[0]["legs"][0].update(amount="5"), "form of the close's journals"),
        (
            "close_journals.json",
            lambda rows: rows[0]["legs"][0].update(account=rows[0]["reference_id"].split(":")[1]),
            "form of the close's journals",
        ),
        ("opening_house_balances.json", lambda rows: rows[0].update(amount="5"), "house balances at the opening"),
        (
            "readings.json",
            lambda rows: rows.append({"source": "x", "subject": "x", "at": "x", "sha256": "x"}),
            "rows of readings",
        ),
        ("books.json", lambda tables: tables["journals"].update(rows=1), "rows of journals"),
    ],
)
def test_change_of_the_evidence_is_named(
    sealed_book: BookUnderTest, tmp_path: Path, name: str, change: object, what: str
) -> None:
    packs = packs_up_to(folder(sealed_book), sealed_book.days[1])
    value = json.loads(packs[-1].files[name])
    change(value)  # type: ignore[operator]
    changed = Pack({**packs[-1].files, name: json.dumps(value).encode()})
    different = audited(sealed_book, [*packs[:-1], changed], tmp_path).first_difference
    assert different is not None
    assert different.what == what


def test_journal_of_another_exchange_is_named_by_the_first_thing_that_differs(
    sealed_book: BookUnderTest, make_book: object, tmp_path: Path
) -> None:
    from dataclasses import replace

    from engine.sim.demo import load_demo
    from tests.fixtures.books import SMALL

    load_demo(tmp_path / "other", replace(SMALL, seed=8))
    packs = packs_up_to(folder(sealed_book), sealed_book.days[0])
    different = audit(tmp_path / "other", packs).first_difference
    assert different is not None
    assert different.what in ("engine sequence of the cut-off", "fees swept, by user, asset and role")


def test_journal_that_ends_before_the_cut_off_is_refused(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    whole = next(journal(sealed_book).glob("*.journal"), None) or next(
        path for path in journal(sealed_book).iterdir() if path.is_file() and path.stat().st_size > 10_000
    )
    short = tmp_path / whole.name
    short.write_bytes(whole.read_bytes()[: 160 * 50])
    with pytest.raises(InputError, match="has not been cut off"):
        audit(short, packs_up_to(folder(sealed_book), sealed_book.days[0]))


def test_pack_without_a_file_is_refused(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    packs = packs_up_to(folder(sealed_book), sealed_book.days[0])
    for name in ("close_journals.json", "books.json", "marks.json", "manifest.json", "opening_house_balances.json"):
        left = {key: data for key, data in packs[-1].files.items() if key != name}
        with pytest.raises(InputError, match=name):
            audit(journal(sealed_book), [Pack(left)])
        with pytest.raises((InputError, ComplineError)):
            audit(journal(sealed_book), [Pack({**left, name: b"[[]"})])


def test_command_needs_no_database(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    """A home of its own, no server, no URL: the journal and the packs alone."""
    day = sealed_book.days[1]
    evidence = tmp_path / "evidence"
    shutil.copytree(folder(sealed_book), evidence, ignore=shutil.ignore_patterns("trees", "proofs", "shards"))
    moved = tmp_path / "exchange"
    shutil.copytree(journal(sealed_book), moved)
    key = tmp_path / "keys.txt"
    key.write_text(published_keys_text(sealed_book.keys, "test.example"), encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COMPLINE", "DATABASE", "NATS", "PG"))}
    command = [sys.executable, "-m", "pipelines.cli.app", "evidence", "replay", str(day), str(moved)]
    done = subprocess.run(
        [*command, "--evidence", str(evidence), "--key", str(key), "--json"],
        cwd=ROOT,
        env={**kept, "COMPLINE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["first_difference"] is None
    assert not (tmp_path / "home").exists()
    pack = next(evidence.rglob(f"evidence-{day}-v1.zip"))
    files = read_pack(pack)
    rows = json.loads(files["marks.json"])
    rows[0]["price"] = "2"
    pack.write_bytes(write_pack(files | {"marks.json": json.dumps(rows).encode()}))
    done = subprocess.run(
        [*command, "--evidence", str(evidence)], cwd=ROOT, env={**kept, "COMPLINE_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "first difference: marks that are last trades" in done.stderr


def test_correction_of_a_customers_account_on_an_earlier_date_is_carried(
    sealed_book: BookUnderTest, tmp_path: Path
) -> None:
    """No correction is in these books, so one added to an earlier pack must show in what the later date comes to."""
    packs = packs_up_to(folder(sealed_book), sealed_book.days[1])
    rows = json.loads(packs[0].files["close_journals.json"])
    account = rows[0]["reference_id"].split(":")[1]
    legs = [
        {"account": account, "asset": "BTC", "amount": "5"},
        {"account": "suspense", "asset": "BTC", "amount": "-5"},
    ]
    correction = {"kind": "correction", "reference_type": "break", "reference_id": "7", "origin": "correction"}
    rows.append({**correction, "effective_at": "2026-03-02T12:00:00.000000Z", "reason": "x", "legs": legs})
    earlier = Pack({**packs[0].files, "close_journals.json": json.dumps(rows).encode()})
    found = audited(sealed_book, [earlier, packs[1]], tmp_path)
    different = {one.what for one in found.comparisons if not one.equal}
    assert different >= {
        "house balances at the opening",
        "digest of balances",
        "owed to customers in BTC",
        "books hash",
    }
    assert "digest of journals" not in different


def test_first_version_keeps_its_evidence_and_the_second_replays_after_a_reopening(
    book: BookUnderTest, tmp_path: Path
) -> None:
    first, second = book.days
    for day in book.days:
        book.close(day)
    kept = {path: path.read_bytes() for path in folder(book).rglob("evidence-*.zip")}
    assert len(kept) == 2
    with book.app() as app:
        app.execute("SELECT close.reopen(%s, 'a late reading', 'ann', 'bob')", (first,))
    for day in (first, second):
        assert book.close(day, recapture=True)[-1].step == "evidence_packs"
    assert len(list(folder(book).rglob("evidence-*.zip"))) == 4
    for path, data in kept.items():
        day = first if str(first) in path.name else second
        with book.closing(day) as context, book.app() as app:
            assert write_pack(pack_files(app, context, 1)) == data
    with book.app() as app:
        report = check_log(log.rows(app), [KeysInForce(0, published_keys_text(book.keys, "test.example"))])
    assert report.problems == []
    assert [(line.version, line.supersedes) for line in report.lines] == [(1, None), (1, None), (2, 0), (2, 1)]
    packs = packs_up_to(folder(book), second)
    assert [one.manifest.header.version for one in packs] == [2, 2]
    found = audited(book, packs, tmp_path, master=book.keys.reserve)
    assert found.first_difference is None, found.first_difference
