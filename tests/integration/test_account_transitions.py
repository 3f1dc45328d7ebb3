"""The matrix of transitions in raw SQL: every ordered pair, every authority, every role of the product."""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta

import psycopg
import pytest

from engine import clock
from engine.accounts.errors import VersionConflictError
from engine.store import accounts
from engine.store.connect import connect, typed_errors
from pipelines.local.urls import APP, AUDITOR, COLLECTOR, DBT, FINANCE
from tests.fixtures.accounts import STATES, add_user, in_state, nobody_asks_for_conditions, superuser
from tests.fixtures.books import BookUnderTest, MakeBook

ROLES = (APP, DBT, COLLECTOR, FINANCE, AUDITOR)
PAIRS = list(itertools.product(STATES, STATES))

# DESIGN: every other ordered pair, and the diagonal, is refused.
ALLOWED = {
    "pending_kyc": {"kyc_approved", "kyc_rejected", "banned", "closed"},
    "kyc_rejected": {"pending_kyc", "banned", "closed"},
    "kyc_approved": {"active", "suspended", "banned", "closed"},
    "active": {"suspended", "restricted", "banned", "closed"},
    "suspended": {"active", "restricted", "banned", "closed"},
    "restricted": {"active", "suspended", "banned", "closed"},
    "banned": {"active", "closed"},
    "closed": set(),
}
RAW = (
    "INSERT INTO accounts.account_state_transitions (user_id, to_state, authority, actor, reason, second_approver)"
    " VALUES (%s, %s, %s, 'ann', 'said so', %s)"
)


def authorities(owner: psycopg.Connection) -> list[str]:
    return [row[0] for row in owner.execute("SELECT authority FROM accounts.authorities ORDER BY 1")]


def test_matrix_has_the_pairs_of_the_design_and_no_other(owner: psycopg.Connection) -> None:
    rows = owner.execute("SELECT DISTINCT from_state, to_state FROM accounts.allowed_transitions").fetchall()
    assert len(PAIRS) == 64
    assert set(rows) == {(a, b) for a, targets in ALLOWED.items() for b in targets}


def test_rights_of_each_state_are_those_of_the_design(owner: psycopg.Connection) -> None:
    rows = owner.execute("SELECT state, may_trade, may_withdraw, may_receive FROM accounts.states").fetchall()
    neither = {"pending_kyc", "kyc_rejected", "kyc_approved", "suspended", "closed", "banned"}
    refuses = {"pending_kyc", "kyc_rejected", "closed", "banned"}
    assert {row[0]: row[1:] for row in rows} == {
        state: (
            state not in neither and state != "restricted",
            state not in neither,
            state not in refuses,
        )
        for state in STATES
    }


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=lambda s: s)
def test_raw_sql_as_the_application_passes_exactly_what_the_matrix_lists(
    lifecycle: BookUnderTest, owner: psycopg.Connection, before: str, after: str
) -> None:
    rules = {
        row[0]: row[1:]
        for row in owner.execute(
            "SELECT authority, needs_reason, needs_second_approver FROM accounts.allowed_transitions"
            " WHERE from_state = %s AND to_state = %s",
            (before, after),
        )
    }
    assert bool(rules) is (after in ALLOWED[before])
    with nobody_asks_for_conditions(owner), lifecycle.app() as app:
        for authority in authorities(owner):
            with app.transaction(force_rollback=True):
                user = in_state(app, owner, before)
                if authority not in rules:
                    with pytest.raises(psycopg.Error, match="is not a transition") as refused, app.transaction():
                        app.execute(RAW, (user, after, authority, "bea"))
                    assert refused.value.sqlstate == "CL019"
                    continue
                needs_reason, needs_second = rules[authority]
                if needs_second:
                    for nobody in (None, "", "  ", "ann", " ANN "):
                        with pytest.raises(psycopg.Error, match="two different people"), app.transaction():
                            app.execute(RAW, (user, after, authority, nobody))
                if needs_reason:
                    for nothing in ("", "   "):
                        with pytest.raises(psycopg.Error, match="and a reason"), app.transaction():
                            app.execute(RAW.replace("said so", nothing).encode(), (user, after, authority, "bea"))
                app.execute(RAW, (user, after, authority, "bea"))
                row = app.execute("SELECT state, version FROM accounts.users WHERE user_id = %s", (user,)).fetchone()
                assert row is not None
                assert row[0] == after


@pytest.mark.parametrize("role", ROLES)
def test_no_role_writes_a_state_or_its_history_by_hand(
    lifecycle: BookUnderTest, owner: psycopg.Connection, role: str
) -> None:
    user = add_user(owner)
    with superuser(lifecycle) as connection:
        connection.execute(f"SET SESSION AUTHORIZATION {role}".encode())
        for statement in (
            *(f"UPDATE accounts.users SET state = '{state}' WHERE user_id = {user}" for state in STATES),
            f"UPDATE accounts.users SET version = 2 WHERE user_id = {user}",
            "UPDATE accounts.account_state_transitions SET reason = 'other'",
            "DELETE FROM accounts.account_state_transitions",
            "TRUNCATE accounts.account_state_transitions",
            "TRUNCATE accounts.users CASCADE",
            "DELETE FROM accounts.allowed_transitions",
            "INSERT INTO accounts.allowed_transitions VALUES ('active', 'pending_kyc', 'operator', false, false)",
            "ALTER TABLE accounts.users DISABLE TRIGGER ALL",
            "SET session_replication_role = replica",
            f"INSERT INTO accounts.account_state_transitions (user_id, to_state, authority, actor, reason, row_hash)"
            f" VALUES ({user}, 'suspended', 'operator', 'ann', 'x', '\\x00')",
            "INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)"
            f" VALUES ({user}, 'legal', 'x', 'x', 'x')",
            "UPDATE accounts.holds SET released_at = now()",
            "UPDATE accounts.obligations SET acknowledged_at = now()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        if role != APP:
            for statement in (
                f"SELECT accounts.transition({user}, 'suspended', 'operator', 'ann', 'x')",
                f"SELECT accounts.open_hold({user}, 'legal', 'x', 'x', 'x')",
                "SELECT * FROM accounts.account_state_transitions",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())


def test_owner_itself_changes_no_state_without_a_row_of_history(owner: psycopg.Connection) -> None:
    user = add_user(owner)
    for statement, rule in (
        ("UPDATE accounts.users SET state = 'banned' WHERE user_id = %s", "has no row of history"),
        ("UPDATE accounts.users SET state = 'banned', version = 2 WHERE user_id = %s", "has no row of history"),
        ("UPDATE accounts.users SET account = 'someone' WHERE user_id = %s", "keeps number, name and date"),
        ("UPDATE accounts.account_state_transitions SET reason = 'x' WHERE user_id = %s", "append-only"),
        ("DELETE FROM accounts.account_state_transitions WHERE user_id = %s", "append-only"),
        ("DELETE FROM accounts.users WHERE user_id = %s", "append-only"),
        ("UPDATE accounts.allowed_transitions SET needs_reason = false WHERE %s > 0", "append-only"),
    ):
        with pytest.raises(psycopg.Error, match=rule):
            owner.execute(statement.encode(), (user,))
    with pytest.raises(psycopg.Error, match="append-only"):
        owner.execute("TRUNCATE accounts.account_state_transitions")
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner.execute(
            "INSERT INTO accounts.account_state_transitions (user_id, version, from_state, to_state, authority, actor,"
            " reason, at, row_hash) VALUES (%s, 1, 'none', 'banned', 'opening', 'x', 'x', now(), sha256(''))",
            (user,),
        )


@pytest.mark.parametrize("state", [s for s in STATES if s not in ("pending_kyc", "active")])
def test_application_opens_no_account_in_another_state(lifecycle: BookUnderTest, state: str) -> None:
    with lifecycle.app() as app, pytest.raises(psycopg.Error, match=f"cannot open as {state}"):
        app.execute("INSERT INTO accounts.users (user_id, account, state) VALUES (777, 'x-777', %s)", (state,))
    with lifecycle.app() as app, pytest.raises(psycopg.Error, match="cannot open"):
        app.execute(
            "INSERT INTO accounts.users (user_id, account, created_at) VALUES (777, 'x-777', now() + interval '1 hour')"
        )


@pytest.mark.parametrize("state", ["frozen", "ACTIVE", "", "active ", "none", None])
def test_state_from_outside_that_is_none_of_the_eight_is_refused(
    lifecycle: BookUnderTest, owner: psycopg.Connection, state: str | None
) -> None:
    user = add_user(owner)
    with lifecycle.app() as app, pytest.raises(psycopg.Error, match="is not a state of an account"):
        app.execute("SELECT accounts.transition(%s, %s, 'operator', 'ann', 'x')", (user, state))


def test_transition_dated_in_the_future_or_before_its_predecessor_is_refused(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    user = add_user(owner)
    statement = (
        "INSERT INTO accounts.account_state_transitions (user_id, to_state, authority, actor, reason, at)"
        " VALUES (%s, 'suspended', 'operator', 'ann', 'x', %s)"
    )
    with lifecycle.app() as app:
        for at, words in ((timedelta(seconds=5), "in the future"), (timedelta(days=-1), "before the one that it")):
            with pytest.raises(psycopg.Error, match=words) as refused:
                app.execute(statement, (user, clock.now() + at))
            assert refused.value.sqlstate == "CL021"
        app.execute(statement, (user, None))


def test_control_characters_that_could_forge_a_separator_are_refused(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    user = add_user(owner)
    with lifecycle.app() as app:
        for actor, reason in (("ann\tb", "x"), ("ann", "a\nb"), ("ann", "a\x01")):
            with pytest.raises(psycopg.errors.CheckViolation):
                app.execute("SELECT accounts.transition(%s, 'suspended', 'operator', %s, %s)", (user, actor, reason))


def test_state_history_event_obligations_and_requests_come_together_or_not_at_all(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    user = add_user(owner)

    def written() -> tuple[int, ...]:
        return tuple(
            int(owner.execute(query.encode(), {"u": user}).fetchone()[0])  # type: ignore[index]
            for query in (
                "SELECT version FROM accounts.users WHERE user_id = %(u)s",
                "SELECT count(*) FROM accounts.account_state_transitions WHERE user_id = %(u)s",
                "SELECT count(*) FROM events.outbox WHERE payload ->> 'user_id' = %(u)s::text",
                "SELECT count(*) FROM accounts.obligations WHERE user_id = %(u)s",
                "SELECT count(*) FROM exchange.command_requests WHERE payload ->> 'user_id' = %(u)s::text",
            )
        )

    before = written()
    with lifecycle.app() as app:
        with app.transaction(force_rollback=True):
            accounts.transition(app, user, "suspended", authority="operator", actor="ann", reason="asked")
        assert written() == before
        accounts.transition(app, user, "suspended", authority="operator", actor="ann", reason="asked")
    assert written() == (before[0] + 1, before[1] + 1, before[2] + 1, before[3] + 3, before[4] + 2)


@pytest.mark.parametrize("state", ["suspended", "banned", "restricted"])
def test_entering_a_state_owes_its_side_effects_and_tells_the_engine_rights_first(
    lifecycle: BookUnderTest, owner: psycopg.Connection, state: str
) -> None:
    user = add_user(owner)
    with lifecycle.app() as app:
        accounts.transition(app, user, state, authority="compliance", actor="ann", reason="x", second="bea")
        owed = app.execute("SELECT kind FROM accounts.obligations WHERE user_id = %s ORDER BY 1", (user,)).fetchall()
        asked = app.execute(
            "SELECT kind, payload - 'user_id' FROM exchange.command_requests WHERE payload ->> 'user_id' = %s::text"
            " ORDER BY request_no",
            (user,),
        ).fetchall()
    freeze = [] if state == "restricted" else [("freeze_withdrawals",)]
    assert owed == [("cancel_open_orders",), *freeze, ("notify",)]
    assert asked == [("set_account", {"state": state, "holds": []}), ("cancel_all", {})]


def test_of_a_hundred_at_once_one_wins_and_ninety_nine_get_a_typed_conflict(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    user = add_user(owner)
    results: list[str] = []
    ready = threading.Barrier(20)

    def contend(worker: int) -> None:
        with connect(lifecycle.opened.url, autocommit=True) as app:
            ready.wait()
            for attempt in range(5):
                try:
                    with typed_errors():
                        accounts.transition(
                            app,
                            user,
                            "suspended" if (worker + attempt) % 2 else "restricted",
                            authority="operator",
                            actor=f"op-{worker}",
                            reason="race",
                            expected_version=1,
                        )
                    results.append("won")
                except VersionConflictError as error:
                    results.append(f"conflict {error.exit_code}")

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == ["conflict 75"] * 99 + ["won"]
    assert owner.execute("SELECT version FROM accounts.users WHERE user_id = %s", (user,)).fetchone() == (2,)


def test_two_approvers_racing_leave_one_transition_and_one_conflict(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    user = add_user(owner)
    with connect(lifecycle.opened.url) as one, connect(lifecycle.opened.url) as other:
        ban = {"authority": "compliance", "actor": "ann", "reason": "fraud", "expected_version": 1}
        accounts.transition(one, user, "banned", second="bea", **ban)  # type: ignore[arg-type]
        caught: list[BaseException] = []

        def second() -> None:
            try:
                with typed_errors():
                    accounts.transition(other, user, "banned", second="cas", **ban)  # type: ignore[arg-type]
            except VersionConflictError as error:
                caught.append(error)

        waits = threading.Thread(target=second)
        waits.start()
        waits.join(0.3)
        assert waits.is_alive(), "the second waits for the first to commit"
        one.commit()
        waits.join(10)
    assert len(caught) == 1
    row = owner.execute(
        "SELECT second_approver FROM accounts.account_state_transitions WHERE user_id = %s AND version = 2", (user,)
    ).fetchone()
    assert row == ("bea",)


def test_settlement_opens_accounts_with_their_history(make_book: MakeBook) -> None:
    book = make_book()
    assert book.value("SELECT count(*) FROM accounts.users") == 23
    assert book.value("SELECT count(*) FROM accounts.account_state_transitions WHERE to_state = 'active'") == 23
    assert book.value("SELECT count(*) FROM exchange.command_requests") == 0, "the engine opened them so itself"
