"""`compline accounts` at the command line: what it changes, what a dry run leaves, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from engine.accounts.errors import (
    ForbiddenTransitionError,
    HoldRefusedError,
    IllFormedTransitionError,
    NotYetError,
    VersionConflictError,
)
from engine.errors import ComplineError, GateError
from engine.store import migrate
from engine.store.account_history import verify_history
from pipelines.cli.app import app as cli
from pipelines.local.servers import ensure_servers
from pipelines.settings import Settings
from tests.fixtures.accounts import add_user, superuser
from tests.fixtures.books import BookUnderTest, drop_database, replace_book


def run(lifecycle: BookUnderTest, *words: object) -> tuple[int, Any]:
    """Exit code and JSON of `compline accounts …`."""
    done = CliRunner().invoke(
        cli, ["accounts", *map(str, words), "--book", lifecycle.opened.book.name, "--json"], catch_exceptions=True
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout) if done.stdout.strip() else None


def test_transition_says_what_it_did_and_a_dry_run_leaves_nothing(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    user = add_user(owner)
    change = ("transition", f"a-{user}", "suspended", "--authority", "operator", "--by", "ann", "--reason", "asked")
    code, said = run(lifecycle, *change, "--dry-run")
    assert (code, said["to"], said["version"], said["dry_run"]) == (0, "suspended", 2, True)
    code, shown = run(lifecycle, "show", user)
    assert (code, shown["state"], len(shown["history"]), shown["obligations"]) == (0, "active", 1, [])
    assert run(lifecycle, *change, "--expected-version", "1")[1]["version"] == 2
    code, shown = run(lifecycle, "show", f"a-{user}")
    assert [row["to_state"] for row in shown["history"]] == ["active", "suspended"]
    assert len(shown["obligations"]) == 3


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("closed", "--authority", "operator", "--reason", "x"), ForbiddenTransitionError),
        (("frozen", "--authority", "operator", "--reason", "x"), ForbiddenTransitionError),
        (("suspended", "--authority", "operator"), IllFormedTransitionError),
        (("banned", "--authority", "compliance", "--reason", "x"), GateError),
        (("banned", "--authority", "compliance", "--reason", "x", "--second", "ann"), GateError),
        (("closed", "--authority", "user_request"), NotYetError),
        (("suspended", "--authority", "operator", "--reason", "x", "--expected-version", "7"), VersionConflictError),
    ],
)
def test_refusal_has_its_type_its_exit_code_and_a_next_step(
    lifecycle: BookUnderTest, owner: psycopg.Connection, words: tuple[str, ...], error: type[ComplineError]
) -> None:
    user = add_user(owner)
    code, said = run(lifecycle, "transition", user, *words, "--by", "ann")
    assert (code, said["error"]) == (error.exit_code, error.__name__)
    assert str(user) in said["what"]
    assert said["next_step"]


def test_holds_reviews_and_closures_from_the_command_line(lifecycle: BookUnderTest, owner: psycopg.Connection) -> None:
    user = add_user(owner)
    opened = run(lifecycle, "hold", "open", user, "legal", "--reference", "c1", "--reason", "court", "--by", "ann")[1]
    assert run(lifecycle, "show", user)[1]["may_withdraw"] is False
    release = ("hold", "release", opened["hold"], "--reason", "over", "--by", "bea")
    assert run(lifecycle, *release)[1]["error"] == GateError.__name__
    assert run(lifecycle, *release, "--second", "cas")[0] == 0
    assert run(lifecycle, *release, "--second", "cas")[1]["error"] == HoldRefusedError.__name__
    by_hand = ("hold", "open", user, "closure", "--reference", "c2", "--reason", "leaves", "--by", "ann")
    assert run(lifecycle, *by_hand)[0] == 64
    assert run(lifecycle, "closure", "request", user, "--by", "the user")[0] == 0
    assert run(lifecycle, "closure", "finish", "--by", "ann", "--dry-run")[0] == 0
    assert run(lifecycle, "closure", "reverse", user, "--by", "the user", "--reason", "stays")[0] == 0
    number = run(lifecycle, "onboard", f"cli-{user}")[1]["user"]
    assert run(lifecycle, "onboard", f"cli-{user}")[1]["new"] is False
    event = ("kyc", "event", number, "approved", "--delivery", f"cli-{user}")
    assert run(lifecycle, *event, "--dry-run")[1]["effect"] == "kyc_approved"
    assert run(lifecycle, *event, "--at", "2026-01-01T00:00:00Z")[1]["effect"] == "kyc_approved"
    assert run(lifecycle, *event, "--at", "2026-01-01T00:00:00Z")[1]["effect"] == "duplicate"
    assert run(lifecycle, *event, "--at", "yesterday")[0] == 65
    assert run(lifecycle, "list", "--state", "kyc_approved")[1]["counts"]["kyc_approved"] >= 1
    assert run(lifecycle, "list", "--state", "frozen")[0] == 64
    assert run(lifecycle, "show", "nobody")[0] == 65
    assert run(lifecycle, "unallocated")[1]["unallocated"] == []
    assert run(lifecycle, "matrix")[1]["mermaid"].startswith("stateDiagram-v2")


def test_late_obligation_and_tampered_history_are_exit_code_one(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    user = add_user(owner)
    run(lifecycle, "transition", user, "suspended", "--authority", "operator", "--by", "ann", "--reason", "asked")
    assert run(lifecycle, "obligations", "--dry-run")[0] == 0
    assert run(lifecycle, "verify-history")[0] == 0
    with superuser(lifecycle) as root:
        root.execute("SET session_replication_role = replica")
        root.execute("UPDATE accounts.obligations SET due_at = now() - interval '1 s' WHERE user_id = %s", (user,))
        root.execute(
            "UPDATE accounts.account_state_transitions SET actor = 'bea' WHERE user_id = %s AND version = 2", (user,)
        )
        code, said = run(lifecycle, "obligations")
        assert (code, said["late"]) == (1, 3)
        code, said = run(lifecycle, "verify-history")
        assert (code, said["error"]) == (1, "HistoryBrokenError")
        assert f"user {user}, row 2" in said["what"]
        root.execute(
            "UPDATE accounts.account_state_transitions SET actor = 'ann' WHERE user_id = %s AND version = 2", (user,)
        )
    assert run(lifecycle, "verify-history")[0] == 0


def test_import_reads_a_table_of_the_old_values_whole_or_not_at_all(lifecycle: BookUnderTest, tmp_path: Path) -> None:
    table = tmp_path / "users.csv"
    table.write_text("user_id,account,status\n900,cli-old-1,banned\n901,cli-old-2,suspended\n902,cli-old-3,active\n")
    assert run(lifecycle, "import", table, "--by", "ann", "--dry-run")[1]["new"] == 3
    assert run(lifecycle, "import", table, "--by", "ann")[1]["new"] == 3
    assert run(lifecycle, "import", table, "--by", "ann")[1]["new"] == 0
    assert run(lifecycle, "show", "cli-old-1")[1]["state"] == "banned"
    for text in (
        "",
        "user_id,account\n1,x\n",
        "user_id,account,state\n1,x,active\n",
        "user_id,account,status\nx,y,active\n",
        "user_id,account,status\n\xff",
    ):
        table.write_bytes(text.encode("latin-1"))
        assert run(lifecycle, "import", table, "--by", "ann")[0] == 65
    table.write_text("user_id,account,status\n950,cli-old-9,frozen\n951,cli-old-8,active\n")
    assert run(lifecycle, "import", table, "--by", "ann")[0] == 65
    assert run(lifecycle, "show", "cli-old-8")[0] == 65


def test_book_from_before_accounts_had_a_history_gets_first_rows_in_the_state_that_it_has(
    settings: Settings, lifecycle: BookUnderTest
) -> None:
    servers = ensure_servers(replace_book(settings, "oldbook"), talk=lambda line: None, book="oldbook")
    try:
        migrate.upgrade(servers.admin.dsn(), "0004")
        with psycopg.connect(servers.admin.dsn(), autocommit=True) as connection:
            connection.execute(
                "INSERT INTO accounts.users (user_id, account, state) VALUES (1, 'a', 'active'), (2, 'b', 'suspended'),"
                " (3, 'c', 'banned')"
            )
            connection.execute(
                "INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)"
                " VALUES (1, 'break', 'break-1', 'x', 'recon')"
            )
        assert migrate.upgrade(servers.admin.dsn()) == migrate.head()
        with psycopg.connect(servers.app.dsn(), autocommit=True) as app:
            assert verify_history(app).rows == 3
            assert app.execute(
                "SELECT to_state, authority FROM accounts.account_state_transitions ORDER BY user_id"
            ).fetchall() == [("active", "migration"), ("suspended", "migration"), ("banned", "migration")]
            asked = app.execute(
                "SELECT payload ->> 'state', payload -> 'holds' FROM exchange.command_requests ORDER BY request_no"
            ).fetchall()
            assert asked == [("active", ["break"]), ("suspended", []), ("banned", [])], "the engine is told what stands"
    finally:
        drop_database(servers, "oldbook")
