"""A book that starts in mid-life: lots and volumes of its opening balances, sealed with genesis, carried on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from engine.clock import to_us
from engine.close.policy import Policy
from engine.errors import GateError
from engine.exchange import commands as cmd
from engine.exchange.events import Side
from engine.exchange.sequencer import open_exchange
from engine.steps.settling import settle
from engine.store import reopening, seals
from engine.store.connect import connect
from pipelines.cli.app import app
from tests.fixtures.books import SMALL, BookUnderTest, MakeBook
from tests.fixtures.finance import FinanceUnderTest

TIERS = (("0", 1000, 1000), ("4600", 500, 900), ("8100.000001", 400, 800))
POLICY = Policy("USDT", mark_max_age_s=86_400, fee_tiers=TIERS)
ALICE, BOB, CAROL, USDT, ETH = 1, 2, 3, 1, 2
FIRST = SMALL.first_day
LOTS = [
    {"account": "bob", "asset": "ETH", "acquired_on": "2019-05-01", "quantity": "2", "cost": "200"},
    {"account": "bob", "asset": "ETH", "acquired_on": "2021-07-01", "quantity": "3", "cost": "900.000001"},
    {"account": "carol", "asset": "ETH", "acquired_on": "2022-01-01", "quantity": "0.5", "cost": "0"},
]


OPENING = [
    cmd.SetAsset(USDT, "USDT", 6),
    cmd.SetAsset(ETH, "ETH", 18),
    cmd.SetMarket(1, "ETH-USDT", ETH, USDT, 10**15, 10),
    cmd.SetTier(1000, 1000),
    *(cmd.OpenAccount(n, name) for n, name in ((ALICE, "alice"), (BOB, "bob"), (CAROL, "carol"))),
    cmd.OpeningBalance(ALICE, USDT, 10_000 * 10**6, "o-1"),
    cmd.OpeningBalance(BOB, ETH, 5 * 10**18, "o-2"),
    cmd.OpeningBalance(CAROL, ETH, 5 * 10**17, "o-3"),
]


def before(days: int) -> str:
    return str(FIRST - timedelta(days=days))


VOLUMES = [
    {"account": "bob", "date": before(29), "volume": "1000"},
    {"account": "bob", "date": before(1), "volume": "500"},
    {"account": "carol", "date": before(29), "volume": "4600"},
]


def order(who: int, side: Side, price: int, lots: int, force: cmd.TimeInForce) -> cmd.NewOrder:
    return cmd.NewOrder(who, 1, side, price, lots, force)


@pytest.fixture
def book(make_book: MakeBook) -> BookUnderTest:
    """A book that has begun."""
    return begun(make_book, POLICY)


def begun(make_book: MakeBook, policy: Policy) -> BookUnderTest:
    """Balances at genesis, and one trade a day for two days; nothing settled."""
    made = make_book(None, policy)
    rule = made.opened.policy_on(FIRST).cutoff_rule
    zero_us = to_us(rule.instant(FIRST - timedelta(days=1)))
    day_us = 86_400 * 10**6
    gtc, ioc = cmd.TimeInForce.GTC, cmd.TimeInForce.IOC
    one = [order(BOB, Side.SELL, 310_000, 1000, gtc), order(ALICE, Side.BUY, 310_000, 1000, ioc)]
    two = [order(BOB, Side.SELL, 300_000, 1500, gtc), order(ALICE, Side.BUY, 300_000, 1500, ioc)]
    with open_exchange(made.opened.files.journal_dir, first_day=FIRST, cutoff_rule=rule) as exchange:
        for at_us, commands in ((zero_us - 1, OPENING), (zero_us, one), (zero_us + day_us, two)):
            for command in commands:
                exchange.submit(command, at_us)
        exchange.cut_off(made.days[1])
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "openings.jsonl"


def load(book: BookUnderTest, file: Path, lines: list[dict[str, str]], *words: str, code: int = 0) -> dict[str, Any]:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = CliRunner().invoke(
        app, ["ledger", "open", str(file), "--book", book.opened.book.name, "--json", *words], catch_exceptions=False
    )
    assert done.exit_code == code, (done.stdout, done.stderr)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def rows(book: BookUnderTest, query: str, *args: object) -> list[tuple[Any, ...]]:
    with book.admin() as owner:
        return owner.execute(query.encode(), args or None).fetchall()


def test_two_days_from_lots_and_volumes_of_known_cost(book: BookUnderTest, file: Path) -> None:
    dry = load(book, file, LOTS + VOLUMES, "--dry-run")
    assert rows(book, "SELECT count(*) FROM positions.opening_lots") == [(0,)]
    said = load(book, file, LOTS + VOLUMES)
    assert (said["lots"], said["volumes"], said["new"]) == (3, 3, True)
    again = load(book, file, VOLUMES + LOTS)
    assert again == {**said, "new": False} == dry
    first, second = book.days
    for day in book.days:
        assert book.close(day)[-1].step == "evidence_packs"
    with book.app() as connection:
        genesis = seals.read(connection, first - timedelta(days=1))
    assert genesis is not None
    record = json.loads(genesis.manifest)
    assert (record["v"], record["openings_sha256"]) == ("genesis/2", said["openings_sha256"])
    gains = "SELECT close_date, trim_scale(realized)::text, trim_scale(quantity)::text, trim_scale(cost)::text"
    found = rows(book, f"{gains} FROM positions.realized_pnl WHERE user_id = 2 AND asset = 'ETH' ORDER BY 1")
    # 3100 for a half of 200; 4500 for the other half, and a sixth of 900.000001.
    assert found == [(first, "3000", "4", "1000.000001"), (second, "4250", "2.5", "750.000001")]
    window = "SELECT close_date, user_id, trim_scale(volume)::text, tier FROM positions.volume_30d ORDER BY 1, 2"
    assert rows(book, window) == [
        (first, ALICE, "3100", 0),
        (first, BOB, "4600", 1),
        (first, CAROL, "4600", 1),
        (second, ALICE, "7600", 1),
        (second, BOB, "8100", 1),
    ]
    assert rows(
        book,
        "SELECT acquired_on, trim_scale(quantity)::text FROM positions.lots WHERE close_date = %s AND user_id = 2",
        second,
    ) == [(date(2021, 7, 1), "2.5")]
    gates = "SELECT gate, verdict FROM recon.verdicts WHERE gate LIKE '%%identity' AND close_date IN (%s, %s)"
    assert set(rows(book, gates, first, second)) == {("quantity_identity", "pass"), ("value_identity", "pass")}
    # The first day of the marts opens with genesis, and both identities hold there too.
    finance = FinanceUnderTest(book)
    assert finance.run(first).status == "succeeded"
    mart = "SELECT asset FROM finance.fct_daily_pnl WHERE account = 'carol' AND close_date = %s"
    assert finance.rows(mart, first) == [("ETH",)]
    with connect(book.opened.url, autocommit=True) as connection:
        reopening.reopen(connection, first, reason="a second look", maker="ada", checker="ben")
    for day in book.days:
        assert book.close(day)[-1].step == "evidence_packs"
    both = "SELECT version, count(*), sum(realized), sum(cost) FROM positions.realized_pnl GROUP BY 1 ORDER BY 1"
    (_, *one), (_, *two) = rows(book, both)
    assert one == two
    volumes = "SELECT version, array_agg((close_date, user_id, volume, tier)::text) FROM positions.volume_30d"
    (_, one), (_, two) = rows(book, f"{volumes} GROUP BY 1 ORDER BY 1")
    assert sorted(one) == sorted(two)


def test_quiet_exchange_is_cut_off_by_the_load(make_book: MakeBook, file: Path) -> None:
    made = make_book(None, POLICY)
    rule = made.opened.policy_on(FIRST).cutoff_rule
    with open_exchange(made.opened.files.journal_dir, first_day=FIRST, cutoff_rule=rule) as exchange:
        for command in OPENING:
            exchange.submit(command, to_us(rule.instant(FIRST - timedelta(days=1))) - 1)
    assert "has not been cut off" in load(made, file, LOTS, "--dry-run", code=65)["what"]
    assert load(made, file, LOTS)["new"] is True
    assert rows(made, "SELECT state FROM close.days WHERE close_date = %s", FIRST - timedelta(days=1)) == [("open",)]


def wrong_lots() -> Iterator[tuple[list[dict[str, str]], str]]:
    yield [LOTS[0], *LOTS[2:]], r"user 2 \(bob\): opening lots of 2 ETH, an opening balance of 5"
    yield LOTS[:2], r"user 3 \(carol\): opening lots of 0 ETH, an opening balance of 0.5"
    yield VOLUMES, r"user 2 \(bob\): opening lots of 0 ETH"
    yield [*LOTS, {**LOTS[0], "account": "alice"}], r"user 1 \(alice\): opening lots of 2 ETH, an opening balance of 0"
    yield [{**LOTS[0], "account": "mallory"}], "account 'mallory' is not in the book"
    yield [{**LOTS[0], "asset": "USDT"}], "a lot of USDT"
    yield [{**LOTS[0], "asset": "XXX"}], "asset 'XXX'"
    yield [{**LOTS[0], "acquired_on": str(FIRST)}], "line 1: acquired on"
    yield [LOTS[1], LOTS[0]], "line 2: acquired on 2019-05-01, the one before on 2021-07-01"
    for bad in ("0", "-1", "NaN", "1e3", "1.0000000000000000001"):
        yield [{**LOTS[0], "quantity": bad}], "line 1: quantity"
    yield [{**LOTS[0], "cost": "0.0000001"}], "more than 6 decimals"
    yield [*LOTS, VOLUMES[0], VOLUMES[0]], "line 5: a second volume of bob"
    yield [*LOTS, {**VOLUMES[0], "date": before(30)}], "a volume of"
    yield [*LOTS, {**VOLUMES[0], "date": str(FIRST)}], "a volume of"
    yield [*LOTS, {**VOLUMES[0], "volume": "0"}], "line 4: volume 0"
    yield [{"account": "bob"}], "line 1"
    yield [], "there is nothing"


def test_what_does_not_fit_is_refused_by_name_and_nothing_is_loaded(book: BookUnderTest, file: Path) -> None:
    for lines, said in wrong_lots():
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        done = CliRunner().invoke(
            app, ["ledger", "open", str(file), "--book", book.opened.book.name, "--json"], catch_exceptions=False
        )
        assert done.exit_code in (1, 65), (lines, done.stdout, done.stderr)
        assert re.search(said, json.loads(done.stdout)["what"]), (said, done.stdout)
    assert rows(
        book, "SELECT (SELECT count(*) FROM positions.opening_lots), (SELECT count(*) FROM positions.opening_volumes)"
    ) == [(0, 0)]
    load(book, file, LOTS + VOLUMES)
    assert "other opening lots" in load(book, file, LOTS, code=1)["what"]


def test_genesis_is_not_sealed_over_balances_without_their_lots(book: BookUnderTest) -> None:
    with book.app() as connection:
        settle(connection, book.opened.files.journal_dir)
        connection.execute("INSERT INTO positions.opening_lots VALUES (2, 'ETH', 0, '2020-01-01', 5, 100)")
        with pytest.raises(GateError, match=r"user 3 \(carol\): opening lots of 0 ETH, an opening balance of 0.5"):
            book.close(FIRST)
        assert seals.read(connection, FIRST - timedelta(days=1)) is None
        connection.execute("INSERT INTO positions.opening_lots VALUES (3, 'ETH', 0, '2020-01-01', 0.5, 100)")
        book.close(FIRST)
        with pytest.raises(psycopg.DatabaseError, match="before genesis is sealed"):
            connection.execute("INSERT INTO positions.opening_volumes VALUES (2, %s, 1)", (FIRST - timedelta(days=1),))


def test_policy_that_takes_no_first_mark_wants_lots_of_every_balance(make_book: MakeBook) -> None:
    made = begun(make_book, replace(POLICY, unpriced_basis="refuse"))
    with pytest.raises(GateError, match=r"user 2 \(bob\): opening lots of 0 ETH, an opening balance of 5"):
        made.close(FIRST)
