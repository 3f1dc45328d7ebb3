"""The ledger in Postgres against a model of a page: zero sum, balances, one effect, refusals that change nothing."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.clock import to_us
from engine.errors import LedgerRefusedError
from engine.ledger.journal import FEE_CLEARING, FEE_INCOME, Journal, Leg, custody, in_transit
from engine.money import to_units
from engine.steps import cutoff
from engine.steps.runner import run_step
from engine.store import postings
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, drop_book, new_book

DECIMALS = {"USDT": 6, "ETH": 18}
WALLET = custody("main")
HOUSE = (WALLET, FEE_CLEARING, FEE_INCOME)
numbers = itertools.count(10**9)
units = st.one_of(st.integers(1, 5), st.integers(1, 10**9), st.integers(1, 10**22))
people = st.integers(0, 2)
assets = st.sampled_from(sorted(DECIMALS))
rebates = st.integers(-3, 9)


@pytest.fixture(scope="module")
def machine_book(settings: Settings, servers: Servers) -> Iterator[BookUnderTest]:
    """A book with a day in cutoff, under a lease held all the while, and an open one."""
    made = new_book(settings, SMALL, name="machine")
    with made.closing(made.days[0]) as context:
        run_step(cutoff.STEP, context)
        LedgerMachine.book, LedgerMachine.epoch = made, context.epoch
        yield made
    drop_book(made)


class LedgerMachine(RuleBasedStateMachine):
    """Users come new with each example; of the house's accounts the model keeps what changed."""

    book: BookUnderTest
    epoch: int

    @initialize()
    def begin(self) -> None:
        self.app = self.book.app()
        self.closing, self.open = self.book.days[0], self.book.days[1] + timedelta(days=1)
        self.users = {}
        for _ in range(3):
            number = next(numbers)
            self.users[f"p-{number}"] = number
            self.app.execute("INSERT INTO accounts.users (user_id, account) VALUES (%s, %s)", (number, f"p-{number}"))
        self.names = list(self.users)
        self.model: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.known: postings.AccountIds = {}
        self.pending: list[tuple[str, str, int]] = []
        self.posted: list[Journal] = []
        self.base = self.held(HOUSE)

    def teardown(self) -> None:
        if hasattr(self, "app"):
            self.app.close()

    def held(self, accounts: tuple[str, ...]) -> dict[tuple[str, str], int]:
        rows = self.app.execute(
            "SELECT account, asset, balance FROM ledger.accounts WHERE account = ANY(%s) AND asset = ANY(%s)",
            (list(accounts), list(DECIMALS)),
        )
        return {(name, asset): to_units(balance, DECIMALS[asset], record=name) for name, asset, balance in rows}

    def journal(self, kind: str, *legs: tuple[str, str, int]) -> Journal:
        number, close = next(numbers), kind == "fee_accrual"
        return Journal(
            kind=kind,
            reference_type=kind,
            reference_id=str(number),
            engine_seq=None if close else number,
            effective_us=to_us(self.book.opened.policy_on(self.open).cutoff_rule.instant(self.closing)) - 1,
            close_date=self.closing if close else self.open,
            origin="close" if close else "engine",
            reason="machine",
            legs=tuple(Leg(*leg) for leg in legs if leg[2]),
        )

    def apply(self, *journals: Journal) -> bool:
        """Post in one transaction; the model decides beforehand whether the ledger must take it."""
        after = self.model.copy()
        for journal in journals:
            for leg in journal.legs:
                after[leg.account, leg.asset] += leg.units
        fine = all(balance >= 0 for (account, _), balance in after.items() if account not in HOUSE)
        try:
            with self.app.transaction():
                self.write(journals)
        except psycopg.errors.CheckViolation as error:
            if fine or error.diag.constraint_name != "accounts_customer_not_negative":
                raise
            self.known.clear()
            return False
        assert fine
        self.model = after
        self.posted += journals
        return True

    def write(self, journals: tuple[Journal, ...]) -> None:
        start = postings.reserve(self.app, len(journals))
        for n, journal in enumerate(journals):
            if journal.kind == "trade":
                self.app.execute(
                    "INSERT INTO exchange.trades VALUES (%(t)s, %(p)s, %(t)s, 0, %(d)s, %(at)s, %(at)s, 'ETH-USDT',"
                    " 1, 1, 1, 'buy', 1, 2, 1, 2, 0, 0, 0, 0)",
                    {"t": journal.engine_seq, "p": start + n, "d": journal.close_date, "at": "2026-03-04T00:00:00Z"},
                )
        epoch = self.epoch if journals[0].origin == "close" else None
        postings.post(
            self.app, journals, decimals=DECIMALS, actor="machine", known=self.known, first=start, epoch=epoch
        )

    @rule(who=people, asset=assets, amount=units)
    def deposit(self, who: int, asset: str, amount: int) -> None:
        assert self.apply(self.journal("deposit", (self.names[who], asset, amount), (WALLET, asset, -amount)))

    @rule(who=people, asset=assets, amount=units)
    def withdraw(self, who: int, asset: str, amount: int) -> None:
        user = self.names[who]
        if self.apply(self.journal("withdrawal", (user, asset, -amount), (in_transit(user), asset, amount))):
            self.pending.append((user, asset, amount))

    @precondition(lambda self: self.pending)
    @rule(left=st.booleans(), data=st.data())
    def end_withdrawal(self, left: bool, data: st.DataObject) -> None:
        user, asset, amount = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        kind, to = ("withdrawal_confirmed", WALLET) if left else ("withdrawal_failed", user)
        assert self.apply(self.journal(kind, (in_transit(user), asset, -amount), (to, asset, amount)))

    @rule(buyer=people, seller=people, base=units, quote=units, maker_fee=rebates, taker_fee=st.integers(0, 9))
    def trade(self, buyer: int, seller: int, base: int, quote: int, maker_fee: int, taker_fee: int) -> None:
        one, two = self.names[buyer], self.names[seller]
        fees = [(one, "USDT", -taker_fee), (two, "USDT", -maker_fee), (FEE_CLEARING, "USDT", maker_fee + taker_fee)]
        legs = [(one, "USDT", -quote), (one, "ETH", base), (two, "ETH", -base), (two, "USDT", quote)]
        self.apply(self.journal("trade", *legs, *fees))

    @rule(asset=assets, amount=units)
    def sweep(self, asset: str, amount: int) -> None:
        assert self.apply(self.journal("fee_accrual", (FEE_CLEARING, asset, -amount), (FEE_INCOME, asset, amount)))

    @rule(who=people, amount=units)
    def good_and_bad_in_one_batch(self, who: int, amount: int) -> None:
        user = self.names[who]
        more = self.model[user, "USDT"] + amount + 1
        assert not self.apply(
            self.journal("deposit", (user, "USDT", amount), (WALLET, "USDT", -amount)),
            self.journal("withdrawal", (user, "USDT", -more), (in_transit(user), "USDT", more)),
        )

    @rule(who=people, asset=assets, amount=units, off=st.sampled_from([1, -1, 10**9]))
    def unbalanced(self, who: int, asset: str, amount: int, off: int) -> None:
        journal = self.journal("deposit", (self.names[who], asset, amount + 1), (WALLET, asset, -amount - 1 - off))
        with pytest.raises(LedgerRefusedError, match="is off by"):
            postings.post(self.app, [journal], decimals=DECIMALS, actor="machine", known={})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(postings, "check_balanced", lambda journal: None)
            with pytest.raises(psycopg.DatabaseError, match="is off by") as caught, self.app.transaction():
                self.write((journal,))
        assert caught.value.sqlstate == "CL001"
        self.known.clear()

    @rule(who=people, amount=units)
    def sweep_to_a_customer(self, who: int, amount: int) -> None:
        journal = self.journal("fee_accrual", (FEE_CLEARING, "USDT", -amount), (self.names[who], "USDT", amount))
        with pytest.raises(psycopg.DatabaseError) as caught, self.app.transaction():
            self.write((journal,))
        assert caught.value.sqlstate == "CL004"
        self.known.clear()

    @precondition(lambda self: any(j.kind not in ("trade",) for j in self.posted))
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        there = data.draw(st.sampled_from([j for j in self.posted if j.kind != "trade"]))
        assert postings.existing(self.app, [there]) == {(there.reference_type, there.reference_id)}
        doubled = tuple(Leg(leg.account, leg.asset, leg.units * 2) for leg in there.legs)
        other = replace(there, legs=doubled)
        with pytest.raises(LedgerRefusedError, match=there.reference_id):
            postings.existing(self.app, [other])
        with pytest.raises(psycopg.errors.UniqueViolation), self.app.transaction():
            self.write((there,))

    @invariant()
    def balances_are_the_models_and_sum_to_zero(self) -> None:
        if not hasattr(self, "base"):
            return
        everyone = (*self.names, *(in_transit(name) for name in self.names), *HOUSE)
        found = self.held(everyone)
        delta = {key: value - self.base.get(key, 0) for key, value in found.items() if value != self.base.get(key, 0)}
        assert delta == {key: value for key, value in self.model.items() if value}
        for asset in DECIMALS:
            assert sum(value for (_, name), value in delta.items() if name == asset) == 0


def test_ledger_behaves_as_its_model(machine_book: BookUnderTest) -> None:
    few = profile(max_examples=12, stateful_step_count=15, deadline=None, database=None)
    run_state_machine_as_test(LedgerMachine, settings=profile(few, suppress_health_check=list(HealthCheck)))
    # Whatever was posted, row hashes hold and every asset of the whole ledger sums to zero.
    sums = "SELECT count(*) FROM (SELECT asset FROM ledger.accounts GROUP BY 1 HAVING sum(balance) <> 0) x"
    assert machine_book.value(sums) == 0
    for day in (machine_book.days[0], machine_book.days[1] + timedelta(days=1)):
        assert machine_book.value("SELECT count(*) FROM ledger.journal_hashes(%s) WHERE stored <> computed", day) == 0
