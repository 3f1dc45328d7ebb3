"""The evidence pack: the same bytes every time, valid to the outsider's verifier, refused in every other shape."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from engine.reserves.arena import TreeArena
from engine.reserves.key_file import published_keys_text
from engine.reserves.keys import KeySet, generate_keys
from engine.reserves.manifest import parse_manifest
from engine.reserves.pack import PackError, read_pack, sums_of, write_pack
from engine.reserves.verifier import compline_verify
from engine.steps import liability_trees
from engine.steps.evidence_packs import folder_of, pack_files
from engine.store import seals
from tests.fixtures.attested import Attester
from tests.fixtures.books import BookUnderTest

ROOT = Path(__file__).resolve().parents[2]


def context_of(book: BookUnderTest, day: date) -> object:
    with book.closing(day) as context:
        return context


def files_of(book: BookUnderTest, day: date, version: int = 1) -> dict[str, bytes]:
    with book.app() as app:
        return pack_files(app, context_of(book, day), version)  # type: ignore[arg-type]


def packed(book: BookUnderTest, day: date) -> Path:
    return folder_of(context_of(book, day), 1) / f"evidence-{day}-v1.zip"  # type: ignore[arg-type]


def keys_file(keys: KeySet, folder: Path) -> str:
    path = folder / "keys.txt"
    path.write_text(published_keys_text(keys, "test.example"), encoding="utf-8")
    return str(path)


def verified(pack: Path, folder: Path, keys: KeySet, day_pack: Path | None = None) -> int:
    kept = folder / "kept.txt"
    kept.write_bytes(read_pack(day_pack or pack)["checkpoint.txt"])
    return compline_verify.main(["evidence", str(pack), "--key", keys_file(keys, folder), "--checkpoint", str(kept)])


def test_pack_is_valid_and_the_same_bytes_every_time(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    for day in sealed_book.days:
        pack = packed(sealed_book, day)
        assert verified(pack, tmp_path, sealed_book.keys) == 0
        assert write_pack(files_of(sealed_book, day)) == pack.read_bytes()
    first, second = (packed(sealed_book, day) for day in sealed_book.days)
    assert read_pack(first)["close_journals.json"] != read_pack(second)["close_journals.json"]


def test_pack_holds_what_an_auditor_asks_for(sealed_book: BookUnderTest) -> None:
    files = read_pack(packed(sealed_book, sealed_book.days[1]))
    names = (
        "manifest.json manifest.sig checkpoint.txt keys.txt rotations.json log_proof.json control_totals.json"
        " policy.json verdicts.json gates.json breaks.json waivers.json marks.json readings.json attestations.json"
        " books.json"
        " close_journals.json opening_house_balances.json report.html compline_verify.py verify.html"
    )
    assert set(files) == set(names.split(" "))
    assert all(one["source"] for one in json.loads(files["marks.json"]))
    sums: dict[str, int] = {}
    for one in json.loads(files["control_totals.json"]):
        sums[one["asset"]] = sums.get(one["asset"], 0) + int(one["amount"])
    assert set(sums.values()) == {0}
    report = files["report.html"].decode()
    assert "All 6 gates passed" in report or "gates passed" in report
    assert "http" not in report.replace("https://www.w3.org", ""), "nothing is fetched"


def test_pack_of_another_day_or_key_is_refused(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    first, second = (packed(sealed_book, day) for day in sealed_book.days)
    assert verified(first, tmp_path, generate_keys()) == 1
    changed = read_pack(first) | {"manifest.json": read_pack(second)["manifest.json"]}
    other = tmp_path / "other.zip"
    other.write_bytes(write_pack(changed))
    assert verified(other, tmp_path, sealed_book.keys, first) == 1


def test_pack_with_any_file_changed_and_relisted_is_refused_or_is_not_what_the_manifest_says(
    sealed_book: BookUnderTest, tmp_path: Path
) -> None:
    pack = packed(sealed_book, sealed_book.days[0])
    files = read_pack(pack)
    totals = json.loads(files["control_totals.json"])
    owed = next(one for one in totals if one["liability_class"] == "customer")
    owed["amount"] = str(int(owed["amount"]) - 1)
    verdicts = files["verdicts.json"].replace(b'"pass"', b'"fail"', 1)
    changes = {"control_totals.json": json.dumps(totals).encode(), "verdicts.json": verdicts}
    for name in (
        "manifest.json",
        "manifest.sig",
        "log_proof.json",
        "control_totals.json",
        "policy.json",
        "verdicts.json",
    ):
        for data in (changes.get(name, files[name].replace(b"1", b"2", 1)), files[name][:-3], b""):
            other = tmp_path / "other.zip"
            other.write_bytes(write_pack(files | {name: data}))
            assert verified(other, tmp_path, sealed_book.keys, pack) == 1, (name, data[:40])


def raw_zip(entries: list[tuple[str, bytes]], comment: bytes = b"") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data)
        archive.comment = comment
    return target.getvalue()


def test_zip_that_is_no_pack_is_refused_with_a_reason(sealed_book: BookUnderTest, tmp_path: Path) -> None:
    good = packed(sealed_book, sealed_book.days[0]).read_bytes()
    files = {"manifest.json": b"{}"}
    listed = sums_of(files)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("SHA256SUMS", b"")
        archive.writestr("zeros", bytes(300 * 2**20))
    bad = {
        "truncated": good[: len(good) // 2],
        "cut by a byte": good[:-1],
        "empty": b"",
        "no zip": b"PK\x03\x04" + b"x" * 100,
        "flipped": good[:200] + bytes([good[200] ^ 1]) + good[201:],
        "climbing": raw_zip([("../manifest.json", b"{}"), ("SHA256SUMS", sums_of({"../manifest.json": b"{}"}))]),
        "absolute": raw_zip([("/etc/passwd", b"{}"), ("SHA256SUMS", sums_of({"/etc/passwd": b"{}"}))]),
        "inner climb": raw_zip([("a/../../b", b"{}"), ("SHA256SUMS", sums_of({"a/../../b": b"{}"}))]),
        "backslash": raw_zip([("a\\b", b"{}"), ("SHA256SUMS", sums_of({"a\\b": b"{}"}))]),
        "unlisted": raw_zip([("manifest.json", b"{}"), ("more", b""), ("SHA256SUMS", listed)]),
        "missing": raw_zip([("SHA256SUMS", listed)]),
        "no list": raw_zip([("manifest.json", b"{}")]),
        "comment": raw_zip([("manifest.json", b"{}"), ("SHA256SUMS", listed)], b"hello"),
        "many": raw_zip([(f"f{n}", b"") for n in range(1001)]),
        "bomb": bomb.getvalue(),
    }
    with pytest.warns(UserWarning, match="Duplicate"):
        bad["twice"] = raw_zip([("manifest.json", b"{}"), ("manifest.json", b"{}"), ("SHA256SUMS", listed)])
    for name, data in bad.items():
        path = tmp_path / "bad.zip"
        path.write_bytes(data)
        with pytest.raises(PackError):
            read_pack(path)
        assert compline_verify.main(["evidence", str(path)]) in (1, 2), name
    assert struct.unpack("<I", good[:4])[0] == 0x04034B50


def test_trees_that_are_gone_are_made_again_byte_for_byte(book: BookUnderTest) -> None:
    day = book.days[0]
    book.close(day)
    with book.closing(day) as context, book.app() as app:
        seal = seals.read(app, day)
        assert seal is not None
        header = parse_manifest(seal.manifest.encode()).header
        folder = liability_trees.trees_folder(context, 1)
        before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert (folder.stat().st_mode & 0o777) == 0o700
        for kernel in ("hashlib", "libcrypto", "numba"):
            shutil.rmtree(folder)
            found = liability_trees.stored(app, replace(context, tree_kernel=kernel), header)
            assert {
                path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            } == before
        dump = tmp_dump(found["BTC"], folder.parent)
    pack = packed(book, day)
    keys = keys_file(book.keys, folder.parent)
    kept = folder.parent / "checkpoint.txt"
    assert compline_verify.main(
        ["tree", str(dump), "--key", keys, "--checkpoint", str(kept), "--evidence", str(pack)]
    ) == 0  # fmt: skip


def tmp_dump(arena: TreeArena, folder: Path) -> Path:
    path = folder / "BTC.dump"
    path.write_bytes(b"".join(arena.dump_lines()))
    return path


def test_reserves_and_their_documents_are_in_the_pack(book: BookUnderTest, tmp_path: Path) -> None:
    first, second = book.days
    attester = Attester(book)
    book.close(first)
    attester.policy(second)
    book.close(second)
    attester.own(second)
    for asset, units in attester.owed(second).items():
        attester.hold(second, asset, units)
    assert book.close(second)[-1].step == "evidence_packs"
    pack = packed(book, second)
    assert verified(pack, tmp_path, book.keys) == 0
    files = read_pack(pack)
    listed = json.loads(files["attestations.json"])
    assert all(f"attestations/{one}.json" in files for row in listed for one in row["documents"])
    assert "100.00 %" in files["report.html"].decode()


def test_seals_of_an_earlier_release_get_the_gates_that_they_saw(sealed_book: BookUnderTest) -> None:
    """What the migration fills in for sealed days is what the seal itself would have stored."""
    text = (ROOT / "engine/store/migrations/sql/0009/04_remembered.sql").read_text(encoding="utf-8")
    fill = text[text.index("-- Books that were sealed before this revision") :]
    query = "SELECT jsonb_agg(to_jsonb(g) ORDER BY close_date, gate, scope) FROM close.seal_gates g"
    with sealed_book.admin() as owner, owner.transaction(force_rollback=True):
        stored = owner.execute(query.encode()).fetchone()
        owner.execute("ALTER TABLE close.seal_gates DISABLE TRIGGER USER")
        owner.execute("DELETE FROM close.seal_gates")
        owner.execute(fill.encode())
        assert owner.execute(query.encode()).fetchone() == stored
