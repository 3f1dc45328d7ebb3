"""The lifecycle against a model a page long: any sequence of transitions, holds and reviews, in a real database."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from engine import clock
from engine.store import account_kyc, accounts
from engine.store.account_history import verify_history
from tests.fixtures.accounts import STATES
from tests.fixtures.books import BookUnderTest

PEOPLE = ("ann", "bea")
AUTHORITIES = (
    "kyc_provider",
    "compliance",
    "operator",
    "admin_override",
    "legal",
    "screening",
    "user_request",
    "first_deposit",
)
_users = itertools.count(1_000_000)
_references = itertools.count()


class Model:
    """One account as the design describes it."""

    def __init__(self, rules: dict[tuple[str, str, str], tuple[bool, bool]]) -> None:
        self.rules = rules
        self.state = "pending_kyc"
        self.version = 1
        self.holds: set[int] = set()
        self.suspended_by: str | None = None  # since it was last active
        self.cleared = False  # whether the last review since the suspension approved

    def allows(self, to: str, authority: str, actor: str, second: str | None, reason: str) -> bool:
        found = self.rules.get((self.state, to, authority))
        if found is None or (found[0] and not reason) or second == actor or (found[1] and second is None):
            return False
        if to == "closed":
            return authority == "legal" or (authority != "user_request" and not self.holds)
        if to == "active" and self.state in ("suspended", "restricted"):
            if self.suspended_by and not self.cleared:
                return False
            if self.suspended_by in ("screening", "legal") and authority != "compliance":
                return False
            return not self.holds
        return True

    def move(self, to: str, authority: str) -> None:
        self.state, self.version = to, self.version + 1
        if to == "suspended":
            self.suspended_by, self.cleared = authority, False
        elif to == "active":
            self.suspended_by = None

    def review(self, outcome: str) -> None:
        self.cleared = outcome == "approved" if outcome != "pending" else self.cleared
        moves = {
            ("pending_kyc", "approved"): "kyc_approved",
            ("pending_kyc", "rejected"): "kyc_rejected",
            ("kyc_rejected", "pending"): "pending_kyc",
        }
        if to := moves.get((self.state, outcome)):
            self.move(to, "kyc_provider")


def machine_of(book: BookUnderTest) -> type[RuleBasedStateMachine]:  # noqa: C901 (one class, in a closure)
    """A machine that plays on one book."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.app = book.app()
            self.user = next(_users)
            rows = self.app.execute("SELECT * FROM accounts.allowed_transitions").fetchall()
            self.model = Model({(a, b, c): (reason, second) for a, b, c, reason, second in rows})
            accounts.onboard(self.app, f"m-{self.user}", self.user)

        def attempt(self, *args: Any, **named: Any) -> bool:
            try:
                accounts.transition(self.app, self.user, *args, **named)
            except psycopg.Error as error:
                if not str(error.sqlstate).startswith("CL0"):
                    raise
                return False
            return True

        @rule(
            to=st.sampled_from(STATES),
            authority=st.sampled_from(AUTHORITIES),
            second=st.sampled_from([None, *PEOPLE]),
            reason=st.sampled_from(["", "because"]),
        )
        def transit(self, to: str, authority: str, second: str | None, reason: str) -> None:
            expected = self.model.allows(to, authority, "ann", second, reason)
            done = self.attempt(to, authority=authority, actor="ann", second=second, reason=reason)
            assert done == expected, (self.model.state, to, authority, second, reason)
            if done:
                self.model.move(to, authority)

        @rule(data=st.data())
        def transit_as_listed(self, data: st.DataObject) -> None:
            listed = sorted((b, c) for a, b, c in self.model.rules if a == self.model.state and b != "closed")
            if listed:
                self.transit(*data.draw(st.sampled_from(listed)), "bea", "because")

        @rule()
        def transit_from_an_old_version(self) -> None:
            done = self.attempt(
                "suspended",
                authority="operator",
                actor="ann",
                reason="x",
                expected_version=self.model.version - 1 or 99,
            )
            assert not done

        @rule(kind=st.sampled_from(["break", "sanctions", "dispute", "legal"]))
        def hold(self, kind: str) -> None:
            number = next(_references)  # one that was released stays taken
            self.model.holds.add(
                accounts.open_hold(self.app, self.user, kind, reference=f"r{number}", reason="x", opener="ann")
            )

        @rule()
        def release(self) -> None:
            if self.model.holds:
                accounts.release_hold(self.app, self.model.holds.pop(), who="bea", second="cas", reason="over")

        @rule(outcome=st.sampled_from(["approved", "rejected", "pending"]))
        def review(self, outcome: str) -> None:
            event = account_kyc.KycEvent(
                "sumsub", f"{self.user}-{next(_users)}", self.user, outcome, clock.now(), "0" * 64, "nats"
            )
            account_kyc.take(self.app, event)
            self.model.review(outcome)

        @rule()
        def late_review(self) -> None:
            then = clock.now() - timedelta(days=1)
            known = self.app.execute(
                "SELECT count(*) FROM accounts.kyc_events WHERE user_id = %s", (self.user,)
            ).fetchone()
            if known != (0,):
                event = account_kyc.KycEvent(
                    "sumsub", f"{self.user}-{next(_users)}", self.user, "approved", then, "0" * 64, "nats"
                )
                assert account_kyc.take(self.app, event).startswith("older")

        @invariant()
        def account_is_as_the_model_says(self) -> None:
            one = accounts.find(self.app, f"m-{self.user}")
            assert (one.state, one.version) == (self.model.state, self.model.version)
            assert one.may_trade == (one.state == "active")
            assert one.may_withdraw == (one.state in ("active", "restricted") and not self.model.holds)
            row = self.app.execute(
                "SELECT payload ->> 'state', jsonb_array_length(payload -> 'holds') > 0 FROM exchange.command_requests"
                " WHERE kind = 'set_account' AND payload ->> 'user_id' = %s ORDER BY request_no DESC LIMIT 1",
                (str(self.user),),
            ).fetchone()
            assert row == (one.state, bool(self.model.holds)), "the engine was asked for what stands"

        def teardown(self) -> None:
            verify_history(self.app)
            self.app.close()

    return Machine


@pytest.mark.filterwarnings("ignore")
def test_any_sequence_of_transitions_holds_and_reviews_is_what_the_model_says(lifecycle: BookUnderTest) -> None:
    run_state_machine_as_test(
        machine_of(lifecycle),
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
