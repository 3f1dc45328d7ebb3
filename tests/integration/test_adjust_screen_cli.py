"""The commands on adjustments and screening: what they print, what a dry run leaves, which code they exit with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from engine.service.kyc import KycDesk
from engine.store import screening
from pipelines.cli.app import app
from pipelines.settings import Settings
from tests.fixtures.accounts import superuser
from tests.fixtures.books import SMALL, BookUnderTest, drop_book, new_book
from tests.fixtures.screening import plain_list, screening_policy


@pytest.fixture(scope="module")
def shared(settings: Settings, servers: object, template: None) -> Iterator[BookUnderTest]:
    """A settled book whose policy names a list."""
    made = new_book(settings, SMALL, screening_policy(), name="cli")
    yield made
    drop_book(made)


def run(book: BookUnderTest, *words: str, code: int = 0) -> dict[str, Any]:
    """A command's JSON."""
    done: Result = CliRunner().invoke(
        app, ["accounts", *words, "--book", book.opened.book.name, "--json"], catch_exceptions=False
    )
    assert done.exit_code == code, (done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout.strip() else {}  # type: ignore[no-any-return]


CAP = ("--max-amount", "100", "--max-share-ppm", "1000000", "--max-maker-day", "150", "--by", "risk", "--second", "cfo")
ASK = ("adjust", "5", "USDT", "--reason-code", "goodwill", "--reason", "promised", "--by", "mia")


def test_adjustment_is_asked_for_looked_at_and_approved(shared: BookUnderTest) -> None:
    refused = run(shared, *ASK, "--credit", "5", "--ticket", "A-1", code=1)
    assert "no cap is configured for USDT" in refused["what"]
    assert run(shared, "cap", "USDT", *CAP, "--reason", "r", "--dry-run")["dry_run"] is True
    assert run(shared, "caps")["caps"] == []
    run(shared, "cap", "USDT", *CAP, "--reason", "r")
    assert run(shared, "caps")["caps"][0]["max_amount"] == "100"
    assert run(shared, *ASK, "--credit", "5", "--ticket", "A-1", "--dry-run")["status"] == "requested"
    assert run(shared, "adjustments")["adjustments"] == []
    asked = run(shared, *ASK, "--credit", "5", "--ticket", "A-1")
    number, payload = str(asked["adjustment"]), asked["payload_sha256"]
    edited = run(shared, "revise", number, "--credit", "6", "--by", "mia")
    assert edited["payload_sha256"] != payload
    assert (
        "stands at revision 2" in run(shared, "approve", number, "--payload", payload, "--by", "chen", code=1)["what"]
    )
    payload = edited["payload_sha256"]
    assert "does not approve" in run(shared, "approve", number, "--payload", payload, "--by", "mia", code=1)["what"]
    assert run(shared, "approve", number, "--payload", payload, "--by", "chen", "--dry-run")["status"] == "approved"
    done = run(shared, "approve", number, "--payload", payload, "--by", "chen")
    assert (done["status"], done["reference"]) == ("approved", f"adj/goodwill/{number}")
    found = run(shared, "adjustments", "--status", "approved")["adjustments"]
    assert [(row["amount"], row["maker"], row["checker"]) for row in found] == [("6", "mia", "chen")]
    other = run(shared, *ASK, "--debit", "1", "--ticket", "A-2")
    assert other["amount"] == "-1"
    rejected = run(
        shared,
        "reject",
        str(other["adjustment"]),
        "--payload",
        other["payload_sha256"],
        "--by",
        "chen",
        "--reason",
        "n",
    )
    assert rejected["status"] == "rejected"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--ticket", "B-1"), 64),
        (("--ticket", "B-1", "--credit", "1", "--debit", "1"), 64),
        (("--ticket", "B-1", "--credit", "-1"), 65),
        (("--ticket", "B-1", "--credit", "1e3"), 65),
        (("--ticket", "B-1", "--credit", "620000"), 1),
    ],
)
def test_adjustment_that_makes_no_sense_is_refused(shared: BookUnderTest, words: tuple[str, ...], code: int) -> None:
    if not run(shared, "caps")["caps"]:
        run(shared, "cap", "USDT", *CAP, "--reason", "r")
    run(shared, *ASK, *words, code=code)


def test_user_is_identified_screened_and_cleared_without_a_name_on_the_screen(
    shared: BookUnderTest, tmp_path: Path
) -> None:
    assert "no stored reading" in run(shared, "screen", "7", code=2)["what"]
    file = tmp_path / "house.txt"
    file.write_bytes(
        plain_list("2026-11-20", [("e-1", "name", "ORLOV, Vladimir"), ("e-2", "address", "0x" + "Ab" * 20)])
    )
    assert run(shared, "capture-list", "house", str(file), "--dry-run")["entries"] == 2
    assert run(shared, "screen", "--all", code=2)
    run(shared, "capture-list", "house", str(file))
    run(shared, "capture-list", "other", str(file), code=64)
    run(shared, "capture-list", "house", str(tmp_path / "none"), code=2)
    people = tmp_path / "people.tsv"
    people.write_text(f"7\tname\tVladimir Orlov\n8\tethereum\t0x{'aB' * 20}\n9\tname\tJane Doe\n", encoding="utf-8")
    assert run(shared, "identify", str(people), "--by", "kyc", "--dry-run")["new_hits"] is None
    with shared.app() as connection:
        for user, name in ((7, "Vladimir Orlov"), (9, "Jane Doe")):
            screening.record_identity(connection, user, name, "kyc")
    bad = tmp_path / "bad.tsv"
    for line in ("7\tname", "7\tname\t???", "nobody\tname\tJane Secret", "7\tbad chain\t0x1"):
        bad.write_text(f"9\tname\tJane Other\n{line}\n", encoding="utf-8")
        said = run(shared, "identify", str(bad), "--by", "kyc", code=65)
        assert "Secret" not in str(said)
    one = run(shared, "screen", "7", "--dry-run")
    assert one["lists"][0]["hits"] == [{"user": 7, "entry": "e-1", "came_of_it": "suspended"}]
    assert run(shared, "hits")["hits"] == []
    everybody = run(shared, "screen", "--all")["lists"][0]
    assert [(hit["user"], hit["entry"]) for hit in everybody["hits"]] == [(7, "e-1")]
    assert everybody["names_compared"] == 2
    done = run(shared, "identify", str(people), "--by", "kyc")
    assert (done["recorded"], done["new_hits"]) == (3, 1)
    assert "Orlov" not in json.dumps([everybody, run(shared, "hits")])
    clear = ("clear", "7", "house", "e-1", "--by", "ann", "--reason", "born 1990")
    assert run(shared, *clear, "--second", "ann", code=1)
    assert run(shared, *clear, "--second", "bob")["done"] == "cleared"
    assert [hit["user_id"] for hit in run(shared, "hits")["hits"]] == [8]
    assert len(run(shared, "hits", "--all")["hits"]) == 2
    assert run(shared, "screen", "--all")["lists"][0]["hits"] == []
    run(shared, "screen", code=64)


def test_user_whom_a_list_names_is_held_by_the_transaction_that_opens_the_account(
    shared: BookUnderTest, tmp_path: Path
) -> None:
    words = ("onboard", "newcomer", "--name", "Vladimir Orlov", "--address", f"ethereum:0x{'aB' * 20}")
    with superuser(shared) as root:
        # As if nothing had been captured within the policy's age.
        root.execute("SET session_replication_role = replica")
        root.execute("UPDATE capture.readings SET at = at - interval '30 days'")
    assert "no stored reading" in run(shared, *words, code=2)["what"]
    run(shared, "show", "newcomer", code=65)
    file = tmp_path / "house.txt"
    file.write_bytes(
        plain_list("2026-11-21", [("e-1", "name", "ORLOV, Vladimir"), ("e-2", "address", "0x" + "Ab" * 20)])
    )
    run(shared, "capture-list", "house", str(file))
    assert run(shared, *words, "--dry-run")["new_hits"] == 2
    run(shared, "show", "newcomer", code=65)
    assert run(shared, *words) | {"user": 0, "book": ""} == {
        **{"book": "", "user": 0, "account": "newcomer", "new": True, "new_hits": 2, "dry_run": False}
    }
    assert run(shared, *words)["new_hits"] == 0
    there = run(shared, "show", "newcomer")
    assert (there["state"], {hold["kind"] for hold in there["holds"]}) == ("pending_kyc", {"sanctions"})
    run(shared, "onboard", "other", "--name", "???", code=65)
    run(shared, "onboard", "other", "--address", "0x1", code=64)
    run(shared, "show", "other", code=65)
    assert run(shared, "onboard", "other")["new_hits"] is None


def test_message_that_opens_an_account_says_who_it_is(shared: BookUnderTest) -> None:
    desk = KycDesk(shared.opened.url, b"")
    message = {
        "account": "by-event",
        "names": ["Vladimir Orlov"],
        "addresses": [{"chain": "bitcoin", "address": "1abc"}],
    }
    for hits in (", hits: 1", ""):
        answer = json.loads(desk.message("account.onboarding.requested", json.dumps(message).encode()))
        assert answer["success"]
        assert answer["effect"].endswith(hits or "is there")
    for bad in (
        {"names": "x"},
        {"names": [1]},
        {"names": ["\ud800"]},
        {"names": ["a\0b"]},
        {"addresses": [["a", "b"]]},
        {"addresses": [{"chain": "x"}]},
    ):
        answer = json.loads(desk.message("account.onboarding.requested", json.dumps({"account": "no", **bad}).encode()))
        assert not answer["success"]


def test_tables_are_for_people(shared: BookUnderTest) -> None:
    for words in (["adjustments"], ["caps"], ["hits"]):
        done = CliRunner().invoke(app, ["accounts", *words, "--book", shared.opened.book.name])
        assert done.exit_code == 0, done.stderr
