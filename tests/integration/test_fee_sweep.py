"""The fee sweep: one journal per user, asset and role, income to the last unit, the difference where inputs changed."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from engine.clock import to_us
from engine.ledger.journal import FEE_CLEARING, FEE_INCOME, Journal, Leg
from engine.money import to_units
from engine.steps import fee_accruals
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook

CHARGED = (
    "SELECT u.account, m.quote, x.role, sum(x.fee) FROM exchange.trades t JOIN exchange.markets m USING (market)"
    " CROSS JOIN LATERAL (VALUES ('maker', maker_id, maker_fee), ('taker', taker_id, taker_fee)) x (role, id, fee)"
    " JOIN accounts.users u ON u.user_id = x.id WHERE t.close_date = %s GROUP BY 1, 2, 3"
)
SWEEPS = (
    "SELECT j.posting_no, j.reference_id, j.row_hash, j.effective_at, e.asset, e.amount, s.decimals"
    " FROM ledger.journals j JOIN ledger.ledger_entries e USING (posting_no, close_date)"
    " JOIN ledger.accounts a USING (account_id) JOIN exchange.assets s ON s.asset = e.asset"
    " WHERE j.kind = 'fee_accrual' AND a.account = 'fee_income' AND j.close_date = %s ORDER BY 1"
)


def sweep_only(book: BookUnderTest) -> None:
    """Run the close as far as the sweep."""
    with book.closing(book.days[0]) as context:
        for step in STEPS[: STEPS.index(fee_accruals.STEP) + 1]:
            run_step(step, context)


def test_every_user_asset_and_role_has_one_journal_of_what_its_trades_charged(sealed_book: BookUnderTest) -> None:
    day = sealed_book.days[0]
    with sealed_book.app() as connection:
        charged = {(a, c, r): fee for a, c, r, fee in connection.execute(CHARGED.encode(), (day,)).fetchall()}
        rows = connection.execute(SWEEPS.encode(), (day,)).fetchall()
    swept: dict[tuple[str, str, str], Decimal] = {}
    for _, reference, _, _, _, amount, _ in rows:
        date, account, asset, role, nth = reference.split(":")
        assert (date, nth) == (str(day), "1")
        assert (account, asset, role) not in swept
        swept[account, asset, role] = amount
    assert swept == {key: fee for key, fee in charged.items() if fee}
    assert len(swept) > 20


def test_hash_of_a_sweep_is_the_one_that_python_makes(sealed_book: BookUnderTest) -> None:
    day = sealed_book.days[0]
    with sealed_book.app() as connection:
        rows = connection.execute(SWEEPS.encode(), (day,)).fetchall()
    for _, reference, stored, at, asset, amount, decimals in rows:
        units = to_units(amount, decimals, record=reference)
        legs = (Leg(FEE_INCOME, asset, units), Leg(FEE_CLEARING, asset, -units))
        made = Journal("fee_accrual", "fee_accrual", reference, None, to_us(at), day, "close", "", legs)
        assert made.row_hash() == bytes(stored)


def test_ten_sweeps_have_one_effect(book: BookUnderTest) -> None:
    sweep_only(book)
    before = book.state_digest(), book.value("SELECT count(*) FROM ledger.journals")
    for _ in range(10):
        with book.closing(book.days[0]) as context, book.app() as connection:
            done = connection.execute(
                "SELECT journals FROM ledger.sweep_fees(%s, %s, 'again')", (book.days[0], context.epoch)
            ).fetchone()
            assert done == (0,)
    assert (book.state_digest(), book.value("SELECT count(*) FROM ledger.journals")) == before


def test_a_fee_that_changed_on_an_unsealed_day_posts_the_difference_alone(book: BookUnderTest) -> None:
    sweep_only(book)
    day = book.days[0]
    with book.admin() as owner:
        owner.execute("ALTER TABLE exchange.trades DISABLE TRIGGER USER")
        changed = owner.execute(
            "UPDATE exchange.trades SET taker_fee = taker_fee + 0.000007 WHERE trade_id ="
            " (SELECT min(trade_id) FROM exchange.trades WHERE close_date = %s AND market = 'BTC-USDT')"
            " RETURNING taker_id",
            (day,),
        ).fetchone()
        assert changed is not None
    with book.closing(day) as context, book.app() as connection:
        connection.execute("SELECT ledger.sweep_fees(%s, %s, 'changed')", (day, context.epoch))
        rows = connection.execute(SWEEPS.encode(), (day,)).fetchall()
    account = book.value("SELECT account FROM accounts.users WHERE user_id = %s", changed[0])
    second = [(reference, amount) for _, reference, _, _, _, amount, _ in rows if reference.endswith(":2")]
    assert second == [(f"{day}:{account}:USDT:taker:2", Decimal("0.000007"))]
    assert book.value("SELECT (recon.gate_fee_clearing_swept(%s, 1)).detail ->> 'journals_not_of_trades'", day) == "0"


def test_a_net_rebate_debits_clearing_and_income_alike(make_book: MakeBook) -> None:
    book = make_book(replace(SMALL, days=1, maker_rate_ppm=-100))
    sweep_only(book)
    day = book.days[0]
    rebates = "SELECT count(*), max(amount) FROM ledger.fee_accruals WHERE close_date = %s AND role = 'maker'"
    with book.app() as connection:
        many, most = connection.execute(rebates.encode(), (day,)).fetchone() or (0, Decimal(0))
    assert many > 2
    assert most < 0
    # Each rebate is the notional's ten thousandth rounded down, in smallest units.
    assert (
        book.value(
            "SELECT count(*) FROM exchange.trades t JOIN exchange.markets m USING (market) JOIN exchange.assets s"
            " ON s.asset = m.quote WHERE maker_fee <> -trunc(quote_quantity * 0.0001, s.decimals)"
        )
        == 0
    )
    assert book.value("SELECT sum(balance) FROM ledger.accounts WHERE account = 'fee_clearing'") == 0


def test_gate_sees_income_booked_on_the_wrong_user(book: BookUnderTest) -> None:
    day = book.days[0]
    book.close(day)
    with book.admin() as owner:
        owner.execute("ALTER TABLE ledger.journals DISABLE TRIGGER USER")
        owner.execute(
            "UPDATE ledger.journals SET reference_id = replace(reference_id, ':taker:1', ':taker:9') WHERE"
            " posting_no = (SELECT min(posting_no) FROM ledger.journals WHERE kind = 'fee_accrual' "
            " AND reference_id LIKE '%%:taker:1')"
        )
        gate = "SELECT verdict, detail ->> 'journals_not_of_trades' FROM recon.gate_fee_clearing_swept(%s, 1)"
        assert owner.execute(gate.encode(), (day,)).fetchone() == ("pass", "0")
        owner.execute(
            "UPDATE ledger.journals SET reference_id = replace(reference_id, ':mm-01:', ':mm-99:')"
            " WHERE kind = 'fee_accrual'"
        )
        found = owner.execute(gate.encode(), (day,)).fetchone()
    assert found is not None
    assert found[0] == "fail"
    assert int(found[1]) >= 2
