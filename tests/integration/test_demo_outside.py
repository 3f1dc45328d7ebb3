"""The demo's custody and chain: read by the collector like real ones, and every gate over them holds and bites."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from checks.gx_run import SHOWN, validate_day
from engine.clock import to_us
from engine.close.policy import OUTSIDE_GATES, Policy
from engine.errors import ConfigError
from engine.exchange import commands as cmd
from engine.recon.sources import wallets_of
from engine.sim import custodian
from engine.sim.demo_world import EARNING, POLICY
from engine.store import days
from pipelines.books import read_card, write_card
from pipelines.cli.demo import card_of
from pipelines.collect import collect
from pipelines.settings import Settings
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook, drop_book, new_book
from tests.fixtures.command_line import Answer, call

DEMO = Policy(reporting_currency="USDT", mark_max_age_s=86_400, **POLICY)


@pytest.fixture(scope="module")
def demo(settings: Settings, template: None) -> Iterator[BookUnderTest]:
    """A small demo with its outside collected and both days sealed."""
    made = new_book(settings, SMALL, DEMO, name="outside")
    for day in made.days:
        assert {one.result for one in collect(made.opened, day)} == {"stored"}
    for day in made.days:
        assert made.close(day)[-1].step == "evidence_packs"
    yield made
    drop_book(made)


def gates(book: BookUnderTest, day: Any) -> dict[str, days.Gate]:
    with book.app() as connection:
        return {one.gate: one for one in days.gates(connection, day)}


def test_every_gate_over_the_outside_is_required_and_passes_with_something_compared(demo: BookUnderTest) -> None:
    for day in demo.days:
        found = gates(demo, day)
        assert [found[gate].verdict for gate in OUTSIDE_GATES] == ["pass"] * 3
        assert found["ledger_vs_custody"].detail["compared"] == 21
    assert demo.value("SELECT count(*) FROM ledger.journals WHERE kind = 'network_fee'") != 0
    assert demo.value("SELECT count(*) FROM ledger.journals WHERE kind = 'custody_transfer'") != 0
    assert demo.value("SELECT count(*) FROM custody.in_transit") != 0
    assert demo.value("SELECT min(total) > 0 FROM chain.staking_totals") is True


def test_readings_are_named_as_simulated_and_stored_once(demo: BookUnderTest) -> None:
    with demo.admin() as connection:
        sources = connection.execute("SELECT source, count(*) FROM capture.readings GROUP BY 1 ORDER BY 1").fetchall()
    assert sources == [("simulated-chain", 2), ("simulated-custody", 42)]
    before = demo.state_digest()
    assert {one.result for one in collect(demo.opened, demo.days[0])} == {"unchanged"}
    assert demo.value("SELECT count(*) FROM capture.readings") == 44
    demo.close(demo.days[0])
    assert demo.state_digest() == before


def test_a_real_exchange_cannot_be_held_against_a_simulated_custodian(demo: BookUnderTest) -> None:
    real = replace(demo.opened, card=replace(demo.opened.card, key_seed=None))
    with pytest.raises(ConfigError, match="it is a real exchange"):
        collect(real, demo.days[0])


def test_what_the_house_brought_is_capital_and_owed_to_nobody(demo: BookUnderTest) -> None:
    with demo.admin() as connection:
        rows = connection.execute(
            "SELECT asset, trim_scale(balance)::text, liability_class FROM ledger.accounts"
            " WHERE account = 'house_capital' ORDER BY 1"
        ).fetchall()
    assert rows == [(asset, str(coins), "equity") for asset, coins in sorted(custodian.HOUSE_COINS.items())]
    assert demo.value("SELECT count(*) FROM custody.in_transit WHERE reference LIKE 'capital%%'") == 0


@pytest.mark.parametrize("gate", OUTSIDE_GATES)
def test_what_the_outside_lacks_is_a_break(make_book: MakeBook, gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    book = make_book(replace(SMALL, days=1), DEMO)
    day = book.days[0]
    if gate == "ledger_vs_custody":
        added = custodian.Outside._add
        monkeypatch.setattr(
            custodian.Outside, "_add", lambda self, wallet, asset, line: added(self, wallet, asset, _less_one(line))
        )
    elif gate == "custody_covers_liabilities":
        monkeypatch.setattr(custodian, "HOUSE_COINS", {})  # rewards are owed, and nobody brought the coins
    else:
        staked = custodian.Outside.staked
        monkeypatch.setattr(
            custodian.Outside,
            "staked",
            lambda self, source, at: replace(found := staked(self, source, at), units=found.units - 1),
        )
    collect(book.opened, day)
    stopped = book.close(day)[-1]
    assert (stopped.step, stopped.status) == (gate, "failed")


def _less_one(line: Any) -> Any:
    """The first deposit of the exchange, one smallest unit short."""
    return replace(line, units=line.units - 1) if line.txid == "dep-0000001" else line


def test_an_asset_that_the_books_do_not_know_is_unknown_by_name(make_book: MakeBook) -> None:
    wallet = ("main", "DOGE", "hot", "simulated", "doge", "simulated-main-doge", 8)
    contract = ("0x" + "52" * 20, "DOGE", 8, "simulated")
    strange = replace(
        DEMO,
        custody_wallets=(*DEMO.custody_wallets, wallet),
        staking_contracts=(*DEMO.staking_contracts, contract),
    )
    book = make_book(replace(SMALL, days=1), strange)
    day = book.days[0]
    collect(book.opened, day)
    assert book.close(day)[-1].status == "unknown"
    with book.admin() as owner:
        rows = owner.execute("SELECT source, subject, why FROM custody.unread ORDER BY 1").fetchall()
    assert [(source, subject) for source, subject, _ in rows] == [("chain", contract[0]), ("custody", "main/DOGE")]
    assert all("the books do not know" in why for _, _, why in rows)


def test_coins_between_the_houses_wallet_and_customers_are_no_capital(
    make_book: MakeBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = make_book(replace(SMALL, days=1), DEMO)
    day = book.days[0]
    noon = DEMO.cutoff_rule.instant(day) - timedelta(hours=12)
    fund = custodian.Outside._fund

    def tops_up(self: Any, wallet: str, asset: str) -> None:
        fund(self, wallet, asset)
        if asset == "BTC":
            at = int(noon.timestamp()) * 1_000_000
            self._lines[wallet, asset].append(custodian._Line(at, "top-up", -1000, done_us=at))
            self._lines["main", asset].append(custodian._Line(at, "top-up", 1000, done_us=at))

    monkeypatch.setattr(custodian.Outside, "_fund", tops_up)
    collect(book.opened, day)
    assert book.close(day)[-1].step == "evidence_packs"
    assert book.value("SELECT count(*) FROM ledger.journals WHERE kind = 'house_capital'") == 7
    assert book.value("SELECT count(*) FROM custody.in_transit WHERE reference = 'top-up'") == 0


def test_a_demo_of_an_earlier_release_goes_on_under_its_own_policy(demo: BookUnderTest, settings: Settings) -> None:
    mine = settings.model_copy(update={"book": "demobefore"})
    now = card_of(mine, SMALL)
    assert set(OUTSIDE_GATES) <= set(now.policy.required_gates)
    files = replace(demo.opened.files, name="demobefore")
    try:
        write_card(files, replace(now, policy=Policy(reporting_currency="USDT", **EARNING)))
        assert card_of(mine, SMALL) == read_card(files)
        assert card_of(mine, replace(SMALL, first_day=SMALL.first_day + timedelta(days=1))).policy == now.policy
    finally:
        files.card.unlink()
        files.folder.rmdir()


def test_the_custodians_bodies_read_back_to_every_instant_of_a_day(demo: BookUnderTest) -> None:
    """The wallet's list, read back line by line, gives what was confirmed at any instant before."""
    rows = wallets_of(DEMO.custody_wallets)
    end = DEMO.cutoff_rule.instant(demo.days[1])
    opening = DEMO.cutoff_rule.instant(demo.days[0] - timedelta(days=1))
    outside = custodian.Outside(demo.opened.files.journal_dir, rows, opening, end + timedelta(hours=1))
    main = next(one for one in rows if one.subject == "main/USDT")
    late = outside.wallet(main, opening, end)
    assert len(late.lines) > 20
    for hours in (3, 12, 24, 31, 47):
        at = opening + timedelta(hours=hours)
        assert late.confirmed_at(at) == outside.wallet(main, opening, at - timedelta(microseconds=1)).state.confirmed
    assert json.loads(late.bodies[0])["label"] == "simulated hot wallet"


def test_tolerances_and_collection_on_the_command_line(demo: BookUnderTest) -> None:
    def on(*arguments: str) -> Answer:
        return call(demo.opened.settings.home, "recon", *arguments, "--book", demo.opened.book.name)

    people = ("--why", "dust", "--by", "ada", "--second", "ben")
    tried = on("tolerances", "set", "staking_vs_chain", "QTRA", "--bps", "2", *people, "--dry-run")
    assert (tried.code, tried.said["bps"], tried.said["dry_run"]) == (0, 2, True)
    assert on("tolerances", "list").said["tolerances"] == []
    done = on("tolerances", "set", "staking_vs_chain", "QTRA", "--absolute", "0.5", "--days", "3", *people)
    assert (done.code, done.said["absolute"], done.said["state"], done.said["approver"]) == (
        0,
        "0.5",
        "in force",
        "ben",
    )
    assert on("tolerances", "expire", "staking_vs_chain", "QTRA", "--why", "x", "--by", "a", "--second", "A").code == 1
    assert on("tolerances", "expire", "staking_vs_chain", "QTRA", *people).said["state"] == "expired"
    assert [one["what"] for one in on("tolerances", "list", "--history").said["history"]] == ["set", "expired"]
    assert on("tolerances", "set", "staking_vs_chain", "QTRA", "--absolute", "0.1e3", *people).code == 65
    day = str(demo.days[1])
    again = on("collect", "--date", day, "--back", "1")
    assert (again.code, len(again.said["readings"])) == (0, 44)
    assert {(one["result"], one["changed"]) for one in again.said["readings"]} == {("unchanged", None)}


def test_a_deposit_that_is_taken_back_later_rewrites_no_sweep_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    opening = datetime(2026, 3, 2, tzinfo=UTC)
    hour = 3_600_000_000
    start = to_us(opening)
    told = [
        (start - hour, cmd.SetAsset(1, "BTC", 8)),
        (start + hour, cmd.Deposit(1, 1, 10_000_000, "d1")),
        (start + 2 * hour, cmd.Deposit(1, 1, 5_000_000, "d2")),
        (start + 26 * hour, cmd.DepositReversed(1, 1, 5_000_000, "d2")),
    ]
    monkeypatch.setattr(custodian, "_commands", lambda directory, until: iter([one for one in told if one[0] <= until]))
    wallets = [one for one in wallets_of(DEMO.custody_wallets) if one.asset == "BTC"]
    main = next(one for one in wallets if one.wallet == "main")
    readings = [
        custodian.Outside(Path(), wallets, opening, end).wallet(main, opening, end)
        for end in (opening + timedelta(days=1), opening + timedelta(days=2))
    ]
    moved = [{(x.reference, x.units) for x in one.lines if x.state == "confirmed"} for one in readings]
    assert moved[0] - moved[1] == {("d2", 5_000_000)}
    assert len(moved[1]) == 3
    assert all(one.state.confirmed >= 0 for one in readings)


WALLETS, LINES, TOTALS = "custody.wallet_balances", "custody.transfers", "chain.staking_totals"
DAMAGE: dict[str, dict[str, tuple[str, int]]] = {
    WALLETS: {
        "its reading is of the same source and date": (
            "UPDATE {t} SET reading_id = (SELECT max(reading_id) FROM capture.readings) WHERE {d} AND wallet = 'main'",
            14,  # and those of the seven wallets that are renamed below
        ),
        "wallet to match regex": ("UPDATE {t} SET wallet = 'Warm' WHERE {d} AND wallet = 'cold' AND asset = 'BTC'", 1),
        "the policy names the wallet": ("UPDATE {t} SET wallet = 'warm' WHERE {d} AND wallet = 'cold'", 7),
        "there are 21 rows": ("DELETE FROM {t} WHERE {d} AND wallet = 'house'", 14),
    },
    LINES: {
        "a line that was taken back was there on an earlier date": (
            "UPDATE {t} SET transfer = transfer || '~removed' WHERE {d} AND wallet = 'house' AND asset = 'BTC'",
            1,
        ),
        "a confirmed line was confirmed before the cut-off": (
            "UPDATE {t} SET at = at + interval '3 days' WHERE {d} AND confirmed AND wallet = 'house'",
            7,
        ),
        "a fee is paid, and taken back only with its line": (
            "UPDATE {t} SET fee = -1 WHERE {d} AND wallet = 'house' AND asset = 'ETH'",
            1,
        ),
    },
    TOTALS: {
        "a total and its block's height are not negative": ("UPDATE {t} SET total = -1 WHERE {d}", 1),
        "block_hash to match regex": ("UPDATE {t} SET block_hash = 'latest' WHERE {d}", 1),
        "the policy names the contract and its asset": ("UPDATE {t} SET asset = 'USDT' WHERE {d}", 1),
    },
}


@pytest.mark.parametrize("table", DAMAGE)
def test_readings_of_the_wrong_shape_are_found_and_shown(demo: BookUnderTest, table: str) -> None:
    day = demo.days[0]
    with demo.admin() as owner:
        owner.execute(f"CREATE TABLE public.kept AS SELECT * FROM {table}".encode())
        owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        for damage, _ in DAMAGE[table].values():
            owner.execute(damage.format(t=table, d=f"close_date = '{day}'").encode())
        checked, findings = validate_day(demo.opened.servers.app.sqlalchemy("psycopg"), day, 1)
        owner.execute(f"DELETE FROM {table}".encode())
        owner.execute(f"INSERT INTO {table} SELECT * FROM public.kept".encode())
        owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
        owner.execute(b"DROP TABLE public.kept")
    found = {one.rule: one for one in findings if one.table == table}
    assert checked > 70
    assert {rule: found[rule].rows for rule in DAMAGE[table]} == {
        rule: rows for rule, (_, rows) in DAMAGE[table].items()
    }
    assert all(len(one.sample) <= SHOWN for one in findings)


def test_readings_of_a_closed_day_have_the_expected_shape(demo: BookUnderTest) -> None:
    assert validate_day(demo.opened.servers.app.sqlalchemy("psycopg"), demo.days[0], 1)[1] == []
