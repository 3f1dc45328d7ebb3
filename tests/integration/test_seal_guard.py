"""The seal's guard over raw SQL, as the application: nothing is forged, reordered or sealed twice."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta

import pytest

from engine.canonical import jcs
from engine.store import seals
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.seals import Attempt, attempt, refused


def test_seal_of_a_reconciled_day_with_its_own_manifest_is_taken(attempted: Attempt) -> None:
    attempted.put(attempted.seal())
    attempted.app.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert attempted.day.state == "sealed"


def changed(manifest: str, path: str) -> str:
    """The manifest with one value replaced by another of the same kind."""
    value = json.loads(manifest)
    *outer, last = path.split(".")
    at = value
    for key in outer:
        at = at[int(key) if key.isdigit() else key]
    old = at[last]
    if path == "reserves":
        new: object = [
            {"address": "a", "amount": "1", "asset": "BTC"}
            | {"block_hash": "00", "chain": "c", "height": 1, "ownership": "x"}
        ]  # fmt: skip
    elif path in ("other_liabilities", "receivables"):
        new = [{"amount": "1", "asset": "BTC"} | ({"account": "suspense"} if path == "other_liabilities" else {})]
    elif isinstance(old, list):
        new = old[1:]
    elif isinstance(old, int):
        new = old + 1
    elif old is None:
        new = "x" if path == "prev_checkpoint" else 0
    elif old.isdigit():
        new = str(int(old) + 1)
    elif path.endswith("snapshot_at") or path == "close_date":
        new = old.replace("02", "03", 1)
    else:
        new = old[::-1] if old[::-1] != old else old + "x"
    assert new != old
    at[last] = new
    return jcs(value).decode()


FIELDS = (
    "v", "exchange", "seq", "close_date", "version", "snapshot_at", "barrier_seq", "books_sha256", "policy_sha256",
    "assets", "assets.0.asset", "assets.0.decimals", "assets.0.height", "assets.0.root", "assets.0.total",
    "snapshot_root", "reserves", "reserves_root", "other_liabilities", "receivables", "verdicts_sha256",
    "prev_checkpoint", "supersedes",
)  # fmt: skip


def test_fields_tried_are_all_that_a_manifest_has(attempted: Attempt) -> None:
    assert {f.split(".")[0] for f in FIELDS} == set(json.loads(attempted.seal().manifest))
    assert {f.split(".")[2] for f in FIELDS if "." in f} == set(json.loads(attempted.seal().manifest)["assets"][0])


@pytest.mark.parametrize("field", FIELDS)
def test_manifest_that_differs_from_the_tables_in_one_field_is_refused_naming_it(
    attempted: Attempt, field: str
) -> None:
    seal = attempted.seal()
    text = changed(seal.manifest, field)
    assert seal.log_index is not None
    wrong = replace(seal, manifest=text, checkpoint=attempted.checkpoint(seal.log_index, text.encode()))
    with refused("CL011", match=f"differs from the tables in: .*{field.split('.', maxsplit=1)[0]}"):
        attempted.put(wrong)


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace("{", '{"extra":1,', 1),
        lambda text: text.replace("{", '{"version":1,', 1),
        lambda text: text.replace(":", ": ", 1),
        lambda text: text + "\n",
        lambda text: "[" + text + "]",
        lambda text: text[:-1],
        lambda text: "",
    ],
)
def test_manifest_in_any_other_form_is_refused(attempted: Attempt, form: object) -> None:
    seal = attempted.seal()
    text = form(seal.manifest)  # type: ignore[operator]
    assert seal.log_index is not None
    wrong = replace(seal, manifest=text, checkpoint=attempted.checkpoint(seal.log_index, text.encode()))
    with refused("CL011", match="differs from the tables"):
        attempted.put(wrong)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"books_sha256": "0" * 64}, "CL011"),
        ({"version": 2}, "CL011"),
        ({"kind": "genesis", "log_index": None, "checkpoint": None, "snapshot_root": None}, "CL011"),
        ({"snapshot_root": "0" * 64}, "CL011"),
        ({"snapshot_root": None}, "CL011"),
        ({"checkpoint": "test.example/por\n1\nAAAA\n\n"}, "CL013"),
        ({"signature": "00"}, "23514"),
        ({"key_id": "x"}, "23514"),
        ({"close_date": date(2031, 1, 1)}, "CL011"),
    ],
)
def test_seal_whose_own_columns_do_not_fit_is_refused(
    attempted: Attempt, change: dict[str, object], state: str
) -> None:
    seal = attempted.seal()
    attempted.append(seal.log_index, seal.manifest.encode())
    with refused(state):
        seals.insert(attempted.app, replace(seal, **change))  # type: ignore[arg-type]


def test_seal_whose_manifest_is_not_in_the_log_is_refused(attempted: Attempt) -> None:
    seal = attempted.seal()
    with refused("CL013", match="is not entry 0 of the log"):
        seals.insert(attempted.app, seal)


def test_seal_over_another_entry_of_the_log_is_refused(attempted: Attempt) -> None:
    seal = attempted.seal()
    attempted.append(0, b"{}")
    with refused("CL013"):
        seals.insert(attempted.app, seal)


def test_log_entry_without_a_seal_does_not_commit(ready: BookUnderTest) -> None:
    with ready.app() as app:
        with refused("23503", match="log_entries_only_manifests"), app.transaction():
            app.execute("INSERT INTO reserves.log_entries VALUES (0, 'x', sha256('\\x00'::bytea || 'x'))")
        assert app.execute("SELECT count(*) FROM reserves.log_entries").fetchone() == (0,)


def test_log_grows_at_its_end_alone_and_each_leaf_is_its_entrys_hash(attempted: Attempt) -> None:
    app = attempted.app
    app.execute("SAVEPOINT one")
    for index in (1, -1, 7):
        with refused("CL013", match="is not the next one"):
            attempted.append(index, b"x")
        app.execute("ROLLBACK TO one")
    with refused("23514"):
        app.execute("INSERT INTO reserves.log_entries VALUES (0, 'x', sha256('x'))")


def test_open_day_is_not_sealed(make_book: MakeBook) -> None:
    made = make_book()
    with attempt(made, made.days[0]) as found, refused("CL011", match="the day is open"):
        found.app.execute(
            "INSERT INTO close.seals (close_date, version, kind, books_sha256, manifest, signature, key_id)"
            " VALUES (%s, 1, 'genesis', repeat('0', 64), '{}', repeat('0', 128), repeat('0', 16))",
            (made.days[0],),
        )
    zero = made.days[0] - timedelta(days=1)
    with made.app() as app, refused("CL011", match="the day is open"):
        app.execute(
            "INSERT INTO close.seals (close_date, version, kind, books_sha256, manifest, signature, key_id)"
            " VALUES (%s, 1, 'genesis', repeat('0', 64), '{}', repeat('0', 128), repeat('0', 16))",
            (zero,),
        )


def test_next_day_is_not_sealed_before_its_predecessor(ready: BookUnderTest) -> None:
    first, second = ready.days
    with attempt(ready, second) as found:
        assert found.day.state == "reconciled"
        with refused("CL008", match=f"{second} cannot be sealed before {first}"):
            found.put(found.seal())


def test_day_is_sealed_once(sealed_book: BookUnderTest) -> None:
    with sealed_book.app() as app:
        there = seals.read(app, sealed_book.days[0])
        assert there is not None
        for change in ({}, {"version": 2}):
            with refused("CL011", match="the day is sealed v1"):
                seals.insert(app, replace(there, **change))
    genesis = sealed_book.days[0] - timedelta(days=1)
    with sealed_book.app() as app:
        zero = seals.read(app, genesis)
        assert zero is not None
        with refused("CL011", match="the day is sealed"):
            seals.insert(app, zero)
