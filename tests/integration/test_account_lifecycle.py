"""What a transition needs besides the matrix: reviews, holds, days of closure; and what is owed after one."""

from __future__ import annotations

import itertools
import threading
from datetime import datetime, timedelta

import psycopg
import pytest

from engine import clock
from engine.accounts.errors import HoldRefusedError, KycEventRefusedError, NotYetError
from engine.errors import GateError
from engine.store import account_kyc, accounts
from engine.store.connect import connect, typed_errors
from tests.fixtures.accounts import add_user, in_state, superuser
from tests.fixtures.books import BookUnderTest

_deliveries = itertools.count(1)


def review(app: psycopg.Connection, user: int, outcome: str, at: datetime | None = None, delivery: str = "") -> str:
    number = next(_deliveries)
    event = account_kyc.KycEvent(
        "sumsub", delivery or f"d-{number}", user, outcome, at or clock.now(), f"{number:064x}", "webhook"
    )
    with typed_errors():
        return account_kyc.take(app, event)


def state(app: psycopg.Connection, user: int) -> str:
    return accounts.find(app, str(user)).state


def suspend(app: psycopg.Connection, user: int, authority: str = "operator") -> None:
    accounts.transition(app, user, "suspended", authority=authority, actor="ann", reason="asked")


# Reviews.


def test_review_moves_an_account_that_awaits_it_once(lifecycle: BookUnderTest, owner: psycopg.Connection) -> None:
    with lifecycle.app() as app:
        user = add_user(app, "pending_kyc")
        at = clock.now()
        assert review(app, user, "approved", at, f"same-{user}") == "kyc_approved"
        for _ in range(99):
            assert review(app, user, "approved", at, f"same-{user}") == "duplicate"
        assert (state(app, user), accounts.find(app, str(user)).version) == ("kyc_approved", 2)
        with pytest.raises(KycEventRefusedError, match="is now another"):
            review(app, user, "rejected", at, f"same-{user}")


def test_rejected_account_is_submitted_again_and_may_then_be_approved(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        user = add_user(app, "pending_kyc")
        assert review(app, user, "rejected") == "kyc_rejected"
        assert review(app, user, "approved") == "recorded: a resubmission comes first"
        assert review(app, user, "pending") == "pending_kyc"
        assert review(app, user, "approved") == "kyc_approved"


def test_event_older_than_one_known_changes_nothing(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        user = add_user(app, "pending_kyc")
        assert review(app, user, "rejected") == "kyc_rejected"
        assert review(app, user, "pending", clock.now() - timedelta(hours=1)) == "older than one known: recorded"
        assert state(app, user) == "kyc_rejected"


@pytest.mark.parametrize(
    ("outcome", "ahead", "words"), [("maybe", 0, "says maybe"), ("approved", 3600, "in the future")]
)
def test_event_that_says_nothing_known_or_is_dated_ahead_is_refused(
    lifecycle: BookUnderTest, outcome: str, ahead: int, words: str
) -> None:
    with lifecycle.app() as app:
        user = add_user(app, "pending_kyc")
        with pytest.raises(KycEventRefusedError, match=words):
            review(app, user, outcome, clock.now() + timedelta(seconds=ahead))
        with pytest.raises(KycEventRefusedError, match="no known user"):
            review(app, 99, "approved")


# Reactivation.


def test_reactivation_needs_an_approval_newer_than_the_suspension_and_no_hold(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        before = clock.now()
        suspend(app, user)
        back = {"authority": "kyc_provider", "actor": "sumsub"}
        with typed_errors():
            with pytest.raises(psycopg.Error, match="no approval"):
                accounts.transition(app, user, "active", **back)  # type: ignore[arg-type]
            assert review(app, user, "approved", before) == "recorded: the next close reactivates"
            with pytest.raises(psycopg.Error, match="no approval"):
                accounts.transition(app, user, "active", **back)  # type: ignore[arg-type]
            hold = accounts.open_hold(app, user, "dispute", reference="c", reason="chargeback", opener="ann")
            review(app, user, "approved")
            with pytest.raises(psycopg.Error, match="open holds: dispute"):
                accounts.transition(app, user, "active", **back)  # type: ignore[arg-type]
            accounts.release_hold(app, hold, who="ann", second=None, reason="settled")
            accounts.transition(app, user, "active", **back)  # type: ignore[arg-type]
        assert state(app, user) == "active"
        subject = app.execute(
            "SELECT subject FROM events.outbox WHERE payload ->> 'user_id' = %s ORDER BY event_id DESC LIMIT 1",
            (str(user),),
        ).fetchone()
        assert subject == ("account.restored",)


def test_rejection_after_the_approval_keeps_the_account_suspended(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        suspend(app, user)
        review(app, user, "approved")
        review(app, user, "rejected")
        assert user not in {one for one, _ in accounts.reactivate_cleared(app, "close")}
        with pytest.raises(NotYetError, match="no approval"), typed_errors():
            accounts.transition(app, user, "active", authority="operator", actor="ann", second="bea", reason="x")


def test_way_by_restricted_asks_for_the_same_review(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        suspend(app, user)
        two = {"authority": "compliance", "actor": "ann", "second": "bea", "reason": "leaving"}
        accounts.transition(app, user, "restricted", **two)  # type: ignore[arg-type]
        with pytest.raises(NotYetError, match="no approval"), typed_errors():
            accounts.transition(app, user, "active", **two)  # type: ignore[arg-type]
        review(app, user, "approved")
        accounts.transition(app, user, "active", **two)  # type: ignore[arg-type]


@pytest.mark.parametrize("authority", ["screening", "legal"])
def test_no_review_alone_undoes_a_suspension_by_screening_or_law(lifecycle: BookUnderTest, authority: str) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        suspend(app, user, authority)
        review(app, user, "approved")
        assert user not in {one for one, _ in accounts.reactivate_cleared(app, "close")}
        with pytest.raises(NotYetError, match=f"by authority {authority}"), typed_errors():
            accounts.transition(app, user, "active", authority="kyc_provider", actor="sumsub")
        accounts.transition(app, user, "active", authority="compliance", actor="ann", second="bea", reason="cleared")


def test_close_reactivates_whom_a_newer_review_cleared_and_nobody_else(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        cleared, held, waiting = (add_user(app) for _ in range(3))
        for user in (cleared, held, waiting):
            suspend(app, user)
        for user in (cleared, held):
            review(app, user, "approved")
        accounts.open_hold(app, held, "legal", reference="c", reason="court", opener="ann")
        done = {user for user, _ in accounts.reactivate_cleared(app, "close")}
        assert done & {cleared, held, waiting} == {cleared}
        assert not accounts.reactivate_cleared(app, "close")


# Holds.


def test_withdrawals_need_a_state_and_no_hold_at_all(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        assert accounts.find(app, str(user)).may_withdraw
        holds = [
            accounts.open_hold(app, user, kind, reference="r", reason="x", opener="ann")
            for kind in ("sanctions", "dispute", "legal", "break")
        ]
        for hold in holds:
            one = accounts.find(app, str(user))
            assert (one.may_trade, one.may_withdraw) == (True, False)
            with pytest.raises(NotYetError, match="may not withdraw: active, held for"), typed_errors():
                accounts.require_may_withdraw(app, user)
            accounts.release_hold(app, hold, who="bea", second="cas", reason="over")
        accounts.require_may_withdraw(app, user)
        suspend(app, user)
        with pytest.raises(NotYetError, match="may not withdraw: suspended"), typed_errors():
            accounts.require_may_withdraw(app, user)


def test_every_hold_opened_or_released_reaches_the_engine_with_all_that_stand(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        first = accounts.open_hold(app, user, "dispute", reference="r", reason="x", opener="ann")
        # Whoever writes it: also the owner's functions that came before there was a lifecycle.
        owner.execute(
            "INSERT INTO accounts.holds (user_id, kind, reference, reason, opened_by)"
            " VALUES (%s, 'break', 'b', 'x', 'recon')",
            (user,),
        )
        accounts.release_hold(app, first, who="ann", second=None, reason="over")
        asked = app.execute(
            "SELECT payload -> 'holds' FROM exchange.command_requests WHERE payload ->> 'user_id' = %s"
            " ORDER BY request_no",
            (str(user),),
        ).fetchall()
    assert [row[0] for row in asked] == [["dispute"], ["break", "dispute"], ["break"]]


@pytest.mark.parametrize(
    ("who", "second"), [("ann", "bea"), ("ANN", "bea"), ("bea", None), ("bea", "bea"), ("bea", " B ea")]
)
def test_sanctions_hold_is_released_by_two_others(lifecycle: BookUnderTest, who: str, second: str | None) -> None:
    with lifecycle.app() as app:
        hold = accounts.open_hold(app, add_user(app), "sanctions", reference="r", reason="x", opener="ann")
        with pytest.raises(GateError, match="two people"), typed_errors():
            accounts.release_hold(app, hold, who=who, second=second, reason="nobody of ours")
        accounts.release_hold(app, hold, who="bea", second="cas", reason="nobody of ours")
        with pytest.raises(HoldRefusedError, match="no open hold"), typed_errors():
            accounts.release_hold(app, hold, who="bea", second="cas", reason="again")


def test_hold_is_opened_once_and_never_changed(lifecycle: BookUnderTest, owner: psycopg.Connection) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        again = [accounts.open_hold(app, user, "legal", reference="r", reason="court", opener="ann") for _ in range(5)]
        assert len(set(again)) == 1
        with pytest.raises(HoldRefusedError, match="open for another reason"), typed_errors():
            accounts.open_hold(app, user, "legal", reference="r", reason="other", opener="ann")
    for change in ("reason = 'x'", "kind = 'break'", "opened_by = 'x'", "released_by = NULL", "user_id = 1"):
        with pytest.raises(psycopg.Error):
            owner.execute(f"UPDATE accounts.holds SET {change} WHERE hold_id = %s".encode(), (again[0],))


def test_withdrawal_that_is_being_broadcast_and_a_suspension_wait_for_each_other(lifecycle: BookUnderTest) -> None:
    with connect(lifecycle.opened.url) as broadcaster, lifecycle.app() as app:
        user = add_user(app)
        accounts.require_may_withdraw(broadcaster, user)
        done = threading.Event()

        def later() -> None:
            with lifecycle.app() as other:
                suspend(other, user)
            done.set()

        thread = threading.Thread(target=later)
        thread.start()
        assert not done.wait(0.3), "the suspension waits for the broadcast to commit"
        broadcaster.commit()
        thread.join(10)
        assert done.is_set()
        with pytest.raises(NotYetError), typed_errors():
            accounts.require_may_withdraw(broadcaster, user)


# Obligations.


def test_obligation_is_acknowledged_by_its_answer_and_told_late_once(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        suspend(app, user)
        owner.execute(
            "SELECT exchange.answer_requests(ARRAY['set_account'], ARRAY[%s], ARRAY[77], ARRAY['accepted'])",
            (f"state:{user}:2",),
        )
        owner.execute(
            "SELECT exchange.answer_requests(ARRAY['cancel_all'], ARRAY[%s], ARRAY[78], ARRAY['unknown_account'])",
            (f"cancel:{user}:2",),
        )
        app.execute(
            "UPDATE events.outbox SET published_at = now() WHERE event_key = %s", (f"account.suspended:{user}:2",)
        )
        left = {row["kind"]: row["acknowledged_by"] for row in accounts.details(app, user)["obligations"]}
        assert left == {
            "freeze_withdrawals": "exchange at sequence 77",
            "cancel_open_orders": None,
            "notify": "outbox relay",
        }
        assert not [row for row in accounts.sweep_obligations(app) if row["account"] == f"a-{user}"]
        with superuser(lifecycle) as root:
            root.execute("SET session_replication_role = replica")
            root.execute("UPDATE accounts.obligations SET due_at = now() - interval '1 s' WHERE user_id = %s", (user,))
        for _ in range(3):
            late = [row for row in accounts.sweep_obligations(app) if row["account"] == f"a-{user}"]
            assert [row["kind"] for row in late] == ["cancel_open_orders"]
        told = app.execute(
            "SELECT payload ->> 'kind' FROM events.outbox WHERE subject = 'account.obligation.overdue'"
            " AND payload ->> 'user_id' = %s",
            (str(user),),
        ).fetchall()
        assert told == [("cancel_open_orders",)]


# Closure.


def over(lifecycle: BookUnderTest, user: int) -> None:
    """Let the days of a closure pass."""
    with superuser(lifecycle) as root:
        root.execute("SET session_replication_role = replica")
        root.execute("UPDATE accounts.closures SET ends_at = now() WHERE user_id = %s", (user,))


def test_closure_waits_its_days_can_be_taken_back_and_is_terminal(lifecycle: BookUnderTest) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        accounts.request_closure(app, user, actor="the user", dust_consent=False)
        days = app.execute(
            "SELECT ends_at - requested_at FROM accounts.closures WHERE user_id = %s", (user,)
        ).fetchone()
        assert days is not None
        assert days[0].days in (29, 30)
        assert not accounts.find(app, str(user)).may_withdraw
        assert not [one for one in accounts.finish_closures(app, "close") if one[0] == user]
        with typed_errors():
            with pytest.raises(psycopg.Error, match="whose days are over"):
                accounts.transition(app, user, "closed", authority="user_request", actor="the user")
            with pytest.raises(psycopg.Error, match="asked for closure already"):
                accounts.request_closure(app, user, actor="the user", dust_consent=False)
        accounts.reverse_closure(app, user, actor="the user", reason="stays")
        assert accounts.find(app, str(user)).may_withdraw
        accounts.request_closure(app, user, actor="the user", dust_consent=False)
        over(lifecycle, user)
        assert (user, "closed") in accounts.finish_closures(app, "close")
        assert state(app, user) == "closed"
        for to in ("active", "banned", "pending_kyc"):
            with pytest.raises(psycopg.Error, match="is not a transition"):
                accounts.transition(app, user, to, authority="admin_override", actor="a", second="b", reason="x")


def test_account_with_a_balance_or_another_hold_does_not_close(
    lifecycle: BookUnderTest, owner: psycopg.Connection
) -> None:
    with lifecycle.app() as app:
        user = add_user(app)
        accounts.request_closure(app, user, actor="the user", dust_consent=True)
        over(lifecycle, user)
        hold = accounts.open_hold(app, user, "dispute", reference="r", reason="x", opener="ann")
        assert dict(accounts.finish_closures(app, "close"))[user].startswith(f"user {user} cannot be closed under open")
        accounts.release_hold(app, hold, who="ann", second=None, reason="over")
        with superuser(lifecycle) as root:
            root.execute("INSERT INTO exchange.assets VALUES ('EUR', 9, 2) ON CONFLICT DO NOTHING")
            root.execute(
                "INSERT INTO ledger.accounts (account, user_id, asset, liability_class, balance)"
                " VALUES (%s, %s, 'EUR', 'customer', 5)",
                (f"a-{user}", user),
            )
        assert "5 EUR" in dict(accounts.finish_closures(app, "close"))[user]
        accounts.reverse_closure(app, user, actor="the user", reason="withdraws first")
        with pytest.raises(HoldRefusedError, match="still has 5 EUR"), typed_errors():
            accounts.request_closure(app, user, actor="the user", dust_consent=True)


@pytest.mark.parametrize("from_state", ["banned", "closed"])
def test_request_closes_no_banned_or_closed_account(
    lifecycle: BookUnderTest, owner: psycopg.Connection, from_state: str
) -> None:
    with lifecycle.app() as app:
        user = in_state(app, owner, from_state)
        with pytest.raises(HoldRefusedError, match=f"is {from_state}"), typed_errors():
            accounts.request_closure(app, user, actor="the user", dust_consent=False)
