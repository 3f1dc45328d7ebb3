"""Commands that move a customer's balance reach the ledger: engine and ledger agree, and the day seals.

Not the reward: it takes from `rewards_payable` what a close before has put there (see `test_command_requests`).
"""

from __future__ import annotations

from datetime import timedelta

from engine.exchange import commands as cmd
from engine.exchange.events import Side, Trade, Transfer
from engine.exchange.sequencer import open_exchange
from engine.steps.settling import settle
from tests.fixtures.adjustments import approve_adjustment, set_cap
from tests.fixtures.books import MakeBook

T = cmd.TimeInForce


def test_stakes_corrections_and_every_kind_of_order_settle_and_the_day_seals(make_book: MakeBook) -> None:
    book = make_book(None)
    first = book.days[0]
    policy, files = book.opened.policy_on(book.days[0]), book.opened.files
    with book.closing(book.days[0]) as context:
        opens = int(context.policy.cutoff_rule.instant(book.days[0]).timestamp()) * 10**6 - 80_000 * 10**6
    with open_exchange(
        files.journal_dir, first_day=book.opened.book.first_day, cutoff_rule=policy.cutoff_rule
    ) as sequencer:
        before = opens - 86_400 * 10**6
        for command in (
            cmd.SetAsset(1, "USDT", 6),
            cmd.SetAsset(2, "ETH", 18),
            cmd.SetMarket(1, "ETH-USDT", 2, 1, 10**15, 10, None, cmd.MarketLimits(slippage_ppm=10_000)),
            cmd.SetTier(-50, 1000),
            cmd.SetTier(0, 500, None, 2),
            *(cmd.OpenAccount(n, f"u-{n}") for n in (1, 2)),
        ):
            sequencer.submit(command, before)
        moved = []
        for command in (cmd.Deposit(1, 1, 10**12, "d1"), cmd.Deposit(2, 2, 10**22, "d2")):
            moved += [e for e in sequencer.submit(command, opens) if isinstance(e, Transfer)]
        sequencer.commit()
        with book.app() as connection:
            settle(connection, files.journal_dir)
        set_cap(book, "USDT")
        taken = approve_adjustment(book, 1, "USDT", "-0.00003", "a", "recovery")
        given = approve_adjustment(book, 2, "USDT", "0.000009", "b")
        for command in (
            cmd.Stake(1, 1, 500, "s"),
            cmd.Unstake(1, 1, 200, "s"),
            cmd.Adjust(1, 1, -30, taken),
            cmd.Adjust(2, 1, 9, given),
            cmd.SetAccountTier(1, 2, "t"),
            cmd.Withdrawal(2, 2, 5, "w"),
            cmd.Withdrawal(2, 2, 6, "v"),
            cmd.WithdrawalConfirmed(2, 2, 5, "w"),
            cmd.WithdrawalFailed(2, 2, 6, "v"),
            cmd.Deposit(2, 1, 1000, "d3"),
            cmd.Deposit(2, 1, 50, "d4"),
            cmd.DepositReversed(2, 1, 50, "d4"),
            cmd.Stake(2, 1, 900, "s2"),
            cmd.DepositReversed(2, 1, 1000, "d3"),
            cmd.NewOrder(2, 1, Side.SELL, 3000, 40, T.POST_ONLY),
            cmd.NewOrder(1, 1, Side.BUY, 3000, 10, T.FOK),
            cmd.NewOrder(1, 1, Side.BUY, 0, 10, T.MARKET),
            cmd.NewOrder(1, 1, Side.BUY, 2000, 5, T.GTC, "reserved", None, 2500),
        ):
            moved += [e for e in sequencer.submit(command, opens) if isinstance(e, Trade | Transfer)]
    assert len(moved) == 17
    with book.app() as connection:
        settle(connection, files.journal_dir)
    rows = dict(
        connection_row
        for connection_row in book.admin().execute(
            "SELECT account, balance * 1000000 FROM ledger.accounts WHERE asset = 'USDT' AND balance <> 0"
        )
    )
    assert rows["u-1:staked"] == 300
    assert rows["adjustment_expense"] == 21
    # 9 by correction and 1000 by deposit, less 900 staked: 109 of the reversed 1000 were there.
    assert (rows["customer_receivable:u-2"], rows["u-2:staked"]) == (-891, 900)
    assert book.value("SELECT kind || reference FROM accounts.holds WHERE user_id = 2") == "disputedeposit_reversed:d3"
    with book.admin() as owner:
        assert owner.execute(
            "SELECT close_date, tier, maker_rate_ppm, taker_rate_ppm FROM exchange.fee_tiers ORDER BY engine_seq"
        ).fetchall() == [(first - timedelta(days=1), 0, -50, 1000), (first - timedelta(days=1), 2, 0, 500)]
        assert owner.execute("SELECT close_date, user_id, tier FROM exchange.user_tiers").fetchall() == [(first, 1, 2)]
    assert book.value("SELECT count(*) FROM ledger.journals WHERE reference_type = 'admin_adjustment'") == 2
    assert book.close(book.days[0])[-1].step == "evidence_packs"
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", book.days[0]) == "sealed"
