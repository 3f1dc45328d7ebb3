"""Day zero: the balances that an exchange begins with are sealed as genesis, once, and day one rolls forward."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from engine.clock import to_us
from engine.exchange import commands as cmd
from engine.exchange import history
from engine.exchange.events import Side, Transfer
from engine.exchange.sequencer import open_exchange
from engine.reserves.signing import verify_ed25519
from engine.sim.demo_world import DemoConfig
from engine.steps.genesis import SIGNATURE_PREFIX
from engine.store import digest, postings, seals
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook
from tests.fixtures.settlement import rewind

A, B, USDT, ETH = 1, 2, 1, 2


@pytest.fixture
def empty(make_book: MakeBook) -> BookUnderTest:
    """A book that nothing was settled into."""
    return make_book(None)


def opened_with_balances(directory: Path, config: DemoConfig) -> None:
    """An exchange that begins with balances, and one trade on its first day."""
    rule = config.cutoff_rule
    zero_us = to_us(rule.instant(config.first_day - timedelta(days=1)))
    with open_exchange(directory, first_day=config.first_day, cutoff_rule=rule) as exchange:
        for at_us, commands in (
            (
                zero_us - 1,
                [
                    cmd.SetAsset(USDT, "USDT", 6),
                    cmd.SetAsset(ETH, "ETH", 18),
                    cmd.SetMarket(1, "ETH-USDT", ETH, USDT, 10**15, 10),
                    cmd.SetTier(0, 1000),
                    cmd.OpenAccount(A, "alice"),
                    cmd.OpenAccount(B, "bob"),
                    cmd.OpeningBalance(A, USDT, 10_000 * 10**6, "open-a"),
                    cmd.OpeningBalance(B, ETH, 5 * 10**18 + 1, "open-b"),
                ],
            ),
            (
                zero_us,
                [
                    cmd.NewOrder(B, 1, Side.SELL, 310_000, 1000, cmd.TimeInForce.GTC),
                    cmd.NewOrder(A, 1, Side.BUY, 310_000, 1000, cmd.TimeInForce.IOC),
                ],
            ),
        ):
            for command in commands:
                exchange.submit(command, at_us)
        exchange.cut_off(config.first_day)


def test_opening_balances_are_sealed_as_genesis_and_day_one_rolls_forward_from_them(empty: BookUnderTest) -> None:
    opened_with_balances(empty.opened.files.journal_dir, SMALL)
    first, zero = empty.days[0], empty.days[0] - timedelta(days=1)
    results = empty.close(first)
    assert [r.status for r in results] == ["succeeded"] * len(results)
    with empty.app() as connection:
        genesis, day = seals.read(connection, zero), seals.read(connection, first)
        assert digest.state_digest(connection)
    assert genesis is not None
    assert day is not None
    assert (genesis.kind, genesis.log_index, day.log_index) == ("genesis", None, 0)
    verify_ed25519(
        empty.keys.manifest_signer().public_key,
        bytes.fromhex(genesis.signature),
        SIGNATURE_PREFIX + genesis.manifest.encode(),
        where="genesis",
    )
    stored = empty.value("SELECT books_sha256 FROM close.days WHERE close_date = %s", zero)
    assert stored == genesis.books_sha256 == empty.value("SELECT close.books_sha256(%s)", zero)
    totals = "SELECT closing FROM ledger.control_totals WHERE close_date = %s AND asset = %s AND liability_class = %s"
    eth = Decimal(5) + Decimal(1).scaleb(-18)
    assert empty.value(totals, zero, "USDT", "customer") == 10_000
    assert empty.value(totals, zero, "ETH", "customer") == eth
    assert empty.value(totals, zero, "ETH", "equity") == -eth
    rolled = "SELECT opening, debits, credits, closing FROM ledger.control_totals WHERE close_date = %s AND asset = %s"
    with empty.admin() as connection:
        usdt = connection.execute(f"{rolled} AND liability_class = 'customer'".encode(), (first, "USDT")).fetchone()
    # 3,100 USDT for one ETH, and 0.1 % of it from the taker.
    assert usdt == (10_000, Decimal("3103.1"), 3100, Decimal("9996.9"))
    assert empty.value(
        "SELECT string_agg(account || ' ' || trim_scale(balance), ',' ORDER BY account) FROM ledger.accounts"
        " WHERE asset = 'USDT' AND balance <> 0"
    ) == "alice 6896.9,bob 3100,fee_income 3.1,opening_equity -10000"  # fmt: skip


def test_day_zero_takes_nothing_after_its_seal_and_is_sealed_once(empty: BookUnderTest) -> None:
    opened_with_balances(empty.opened.files.journal_dir, SMALL)
    empty.close(empty.days[0])
    zero = empty.days[0] - timedelta(days=1)
    with empty.app() as connection:
        rewind(empty)
        one = next(iter(history.events_from(empty.opened.files.journal_dir, 6)))
        with pytest.raises(psycopg.Error, match="takes no journal of origin genesis"):
            postings.copy_rows(
                connection,
                "ledger.journals (posting_no, kind, reference_type, reference_id, engine_seq, effective_at, close_date,"
                " origin, actor, reason, row_hash)",
                [(10**6, "opening_balance", "opening_balance", "more", 6, "2026-03-01T00:00:00Z", zero, "genesis", "x",
                  "x", "\\x" + "00" * 32)],
            )  # fmt: skip
        assert isinstance(one[0], Transfer)
    assert empty.value("SELECT count(*) FROM close.seals WHERE kind = 'genesis'") == 1
    assert empty.value("SELECT epoch FROM close.leases WHERE close_date = %s", zero) == 1
