"""An exchange of one's own: opened from a file whole or not at all, once, and then served and closed like any other."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from typer.testing import CliRunner

from engine import clock
from engine.clock import day_number, to_us
from engine.errors import UncheckedError
from engine.exchange import commands as cmd
from engine.exchange import snapshot, snapshots
from engine.exchange.codec import RECORD_BYTES
from engine.exchange.errors import JournalBehindError
from engine.exchange.events import Side
from engine.exchange.journal import journal_path
from engine.exchange.sequencer import open_exchange
from engine.steps.settling import settle
from pipelines.books import BookFiles, open_book
from pipelines.cli import exchange_open
from pipelines.cli.app import app
from pipelines.key_store import init_keys, load_keys_file
from pipelines.settings import Settings
from tests.fixtures.books import BookUnderTest, copy_template, new_name, replace_book
from tests.fixtures.exchange_service import Served, ask

FILE = Path(__file__).parents[2] / "docs" / "ops" / "opening.jsonl"
FIRST = date(2026, 3, 2)
_numbers = itertools.count(1)


def lines_of(first_day: date) -> list[dict[str, Any]]:
    """The documented file, beginning on another day."""
    found = [json.loads(line) for line in FILE.read_text().splitlines()]
    found[0]["first_day"] = str(first_day)
    found[0]["policy"]["mark_max_age_s"] = 86_400
    return found


def write(folder: Path, lines: list[dict[str, Any]] | list[str]) -> Path:
    path = folder / f"opening-{next(_numbers)}.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def opening(settings: Settings, name: str, file: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Run the command in this process; exit code and JSON."""
    environment = {"COMPLINE_HOME": str(settings.home)}
    done = CliRunner().invoke(app, ["exchange", "open", str(file), "--book", name, "--json", *more], env=environment)
    return done.exit_code, json.loads(done.stdout)


def book_of(settings: Settings, name: str) -> BookUnderTest:
    opened = open_book(replace_book(settings, name), name, talk=lambda line: None)
    return BookUnderTest(opened, load_keys_file(init_keys(opened.settings, name)))


@pytest.fixture
def on_the_first_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is run on the morning of the first day."""
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 3, 2, 8, tzinfo=UTC))


def test_documented_file_opens_an_exchange_whose_days_close(
    own_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_name("own")
    copy_template(own_settings, name)
    with monkeypatch.context() as then:
        then.setattr(clock, "now", lambda: datetime(2026, 3, 2, 8, tzinfo=UTC))
        code, said = opening(own_settings, name, write(tmp_path, lines_of(FIRST)))
    assert (code, said["new"]) == (0, True)
    assert {key: said[key] for key in ("assets", "markets", "accounts", "balances")} == {
        "assets": 3,
        "markets": 2,
        "accounts": 3,
        "balances": 5,
    }
    book = book_of(own_settings, name)
    rule = book.opened.card.policy.cutoff_rule
    with open_exchange(book.opened.files.journal_dir, first_day=FIRST, cutoff_rule=rule) as sequencer:
        noon = to_us(datetime(2026, 3, 2, 12, tzinfo=UTC))
        # 0.002 BTC at 50,000.00 USDT, then ETH at 3,000.00: the ticks and lots of the file.
        for market, price, lots in ((1, 5_000_000, 20), (2, 300_000, 5)):
            sequencer.submit(cmd.NewOrder(1000, market, Side.SELL, price, lots, cmd.TimeInForce.GTC), noon)
            (*_, trade) = sequencer.submit(cmd.NewOrder(1, market, Side.BUY, price, lots, cmd.TimeInForce.GTC), noon)
            assert (trade.maker_fee_units, trade.taker_fee_units) == (
                # -100 and 1,000 parts per million of 100 and 15 USDT: the market maker's tier, and everybody's.
                (-10_000, 100_000) if market == 1 else (-1_500, 15_000)
            )
        sequencer.submit(cmd.NewOrder(1, 1, Side.BUY, 1, 1, cmd.TimeInForce.GTC), noon + 24 * 3_600_000_000)
    assert book.close(FIRST)[-1].step == "evidence_packs"
    assert book.value("SELECT state FROM close.days WHERE close_date = %s", FIRST) == "sealed"


def test_opened_exchange_is_served(own_settings: Settings, tmp_path: Path) -> None:
    name = new_name("own")
    copy_template(own_settings, name)
    today = clock.now().date()
    assert opening(own_settings, name, write(tmp_path, lines_of(today)))[0] == 0
    service = Served(book_of(own_settings, name), replace_book(own_settings, name))
    try:
        service.start()

        async def talk(client: Client) -> dict[str, Any]:
            body = {"symbol": "BTC-USDT", "side": "sell", "type": "limit", "price": "50000", "quantity": "0.75"}
            placed = await ask(client, "orders.submit", {"userId": "bob", "order": body})
            assert placed["success"], placed
            return await ask(client, "ledger.balances.get", {"userId": "bob"})

        assert service.run(talk)["balances"] == [
            {"asset": "BTC", "available": "0", "locked": "0.75", "staked": "0", "inTransit": "0"}
        ]
        service.settled()
        query = "SELECT sum(balance)::text FROM ledger.accounts WHERE account LIKE 'bob%%' AND asset = 'BTC'"
        assert Decimal(str(service.book.value(query))) == Decimal("0.75")
        # Day zero ended when it was served: its snapshot is taken beside it.
        service.until(lambda: not service.health()["snapshots_waiting"], "the snapshot of day zero is taken")
        (kept,) = snapshots.listed(service.directory)
        assert snapshot.load(kept.path).open_day == day_number(today)
        service.stop()
        # An older copy of the journal, under a ledger that is ahead of it: nothing after would be settled.
        journal, at = (
            journal_path(service.directory),
            service.book.value("SELECT last_seq FROM ledger.settlement_cursor"),
        )
        journal.write_bytes(journal.read_bytes()[:-RECORD_BYTES])
        with service.book.app() as connection, pytest.raises(JournalBehindError, match=f"reach record {at},"):
            settle(connection, service.directory, 5)
        service.start(wait=False)
        assert service.process is not None
        assert service.process.wait(60) == JournalBehindError.exit_code
    finally:
        service.end()


def test_same_file_again_changes_nothing_and_another_is_refused(
    own_settings: Settings, tmp_path: Path, on_the_first_day: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_name("own")
    copy_template(own_settings, name)
    lines = lines_of(FIRST)
    file = write(tmp_path, lines)
    assert opening(own_settings, name, file)[1]["new"]
    book = book_of(own_settings, name)
    before = journal_path(book.opened.files.journal_dir).read_bytes(), book.state_digest()
    # Also when its first day is long over.
    monkeypatch.setattr(clock, "now", lambda: datetime(2027, 3, 2, tzinfo=UTC))
    code, said = opening(own_settings, name, file)
    assert (code, said["new"]) == (0, False)
    richer = [{**line, "amount": "0.76"} if line.get("amount") == "0.75" else line for line in lines]
    for changed, words in (
        (richer, "record 13 is not what the file says, OpeningBalance"),
        ([*lines, {"kind": "balance", "account": "bob", "asset": "ETH", "amount": "1"}], "record 17"),
        ([{**lines[0], "exchange": "other.example"}, *lines[1:]], "it is acme.example from 2026-03-02"),
        ([{**lines[0], "policy": {"reporting_currency": "USDT"}}, *lines[1:]], "its policy is another"),
    ):
        code, said = opening(own_settings, name, write(tmp_path, changed))
        assert code, said
        assert words in json.dumps(said), said
    assert (journal_path(book.opened.files.journal_dir).read_bytes(), book.state_digest()) == before


def test_opening_that_was_cut_short_is_ended_by_running_it_again(
    own_settings: Settings, tmp_path: Path, on_the_first_day: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_name("own")
    copy_template(own_settings, name)
    file = write(tmp_path, lines_of(FIRST))
    folder = BookFiles(own_settings.home, name).folder

    def away(*words: object, **more: object) -> None:
        raise UncheckedError("the database went away")

    for what in ("create_book", "settle"):
        with monkeypatch.context() as cut:
            cut.setattr(exchange_open, what, away)
            assert opening(own_settings, name, file)[0]
        assert (folder / "book.json").exists() == (what == "settle")
    # What a killed process leaves of its draft.
    shutil.copytree(folder / "exchange", folder / ".opening-4194305")
    (folder / ".opening-mine").mkdir()
    assert opening(own_settings, name, file)[1]["new"] is False
    assert [left.name for left in folder.glob(".opening-*")] == [".opening-mine"]
    book = book_of(own_settings, name)
    with book.app() as connection:
        settle(connection, book.opened.files.journal_dir)
    assert book.value("SELECT count(*) FROM ledger.journals WHERE origin = 'genesis'") == 5


Edit = Callable[[list[dict[str, Any]]], object]


@pytest.mark.parametrize(
    ("edit", "line", "words"),
    [
        (lambda lines: lines.pop(0), 1, "no book"),
        (lambda lines: lines.append(lines[0]), 18, "a book"),
        (lambda lines: lines[0].update(first_day="2026-03-32"), 1, "2026-03-32"),
        (lambda lines: lines[0].update(first_day="2026-03-01"), 0, "first day 2026-03-01"),
        (lambda lines: lines[0].update(first_day="2028-03-01"), 0, "first day 2028-03-01"),
        (lambda lines: lines[0]["policy"].update(cutof="24:00 UTC"), 1, "unknown keys: cutof"),
        (lambda lines: lines[0].update(policy=[]), 1, "policy is not an object"),
        (lambda lines: lines[0].update(exchange="two words"), 1, "two words"),
        (lambda lines: lines[0]["policy"].update(lot_method="\0"), 1, "a text holds a zero"),
        (lambda lines: lines[0]["policy"].update(dust_value="\ud800"), 1, "surrogates not allowed"),
        (lambda lines: lines[0]["policy"].update(mark_max_age_s=10**30), 1, "exceeds safe integer"),
        (lambda lines: lines[0]["policy"].update(reporting_currency="DOGE"), 0, "reporting_currency 'DOGE'"),
        (lambda lines: lines[1].update(decimals=19), 2, "decimals is '19'"),
        (lambda lines: lines[1].update(decimals=True), 2, "decimals is 'True'"),
        (lambda lines: lines[1].update(asset="usdt"), 2, "usdt"),
        (lambda lines: lines[2].update(asset="USDT"), 3, "asset USDT again"),
        (lambda lines: lines[4].update(base="DOGE"), 5, "base 'DOGE'"),
        (lambda lines: lines[4].update(lot="0.00001"), 5, "1/10 units of USDT"),
        (lambda lines: lines[4].update(lot="0"), 5, "lot is 0"),
        (lambda lines: lines[4].update(tick="-0.01"), 5, "a tick of -0.01"),
        (lambda lines: lines[4].update(tick=0.01), 5, "decimal strings"),
        (lambda lines: lines[4].update(min_quantity="0.00015"), 5, "min_quantity is 0.00015"),
        (lambda lines: lines[4].update(market="A..B"), 5, "A..B"),
        (lambda lines: lines[4].update(bands=1), 5, "unknown field 'bands'"),
        (lambda lines: lines[4].pop("tick"), 5, "field 'tick' is missing"),
        (lambda lines: lines[6].update(taker_rate_ppm=1_000_001), 7, "taker_rate_ppm is '1000001'"),
        (lambda lines: lines[8].update(user_id=0), 9, "user_id is '0'"),
        (lambda lines: lines[9].update(user_id=1), 10, "user_id 1 again"),
        (lambda lines: lines[9].update(account="Bob"), 10, "Bob"),
        (lambda lines: lines[9].update(account="alice"), 10, "account alice again"),
        (lambda lines: lines[9].update(account="suspense"), 10, "suspense are the house's"),
        (lambda lines: lines[5].update(market="BTC-USDT"), 6, "market BTC-USDT again"),
        (lambda lines: lines[7].update(tier=0), 8, "tier 0 again"),
        (lambda lines: lines[11].update(tier=7), 12, "tier 7"),
        (lambda lines: lines[13].update(account="carol"), 14, "account 'carol'"),
        (lambda lines: lines[13].update(amount="0.123456789"), 14, "more than 8 decimals"),
        (lambda lines: lines[13].update(amount="1e3"), 14, "not a plain decimal number"),
        (lambda lines: lines[13].update(amount="1" + "0" * 21), 14, "too large"),
        (lambda lines: lines.append(lines[13]), 18, "duplicate reference"),
        (lambda lines: lines[13].update(kind="gift"), 14, "kind 'gift'"),
        (lambda lines: lines[13].update(amount="9" * 70_000), 14, "does not end"),
        (lambda lines: lines.__delitem__(slice(1, None)), 0, "no market"),
    ],
)
def test_line_that_breaks_a_rule_is_named_and_nothing_is_opened(
    own_settings: Settings, tmp_path: Path, on_the_first_day: None, edit: Edit, line: int, words: str
) -> None:
    lines = json.loads(json.dumps(lines_of(FIRST)))
    edit(lines)
    name = new_name("own")
    for more in ((), ("--dry-run",)):
        code, said = opening(own_settings, name, write(tmp_path, lines), *more)
        assert code, said
        text = json.dumps(said)
        assert words in text, said
        assert not line or f", line {line}:" in text, said
    assert not (own_settings.home / "books" / name / "exchange").exists()
    assert not list((own_settings.home / "books").glob(f"{name}/.opening-*"))


@pytest.mark.parametrize("text", ["", "\\xff", "[]", '{"kind": "asset", "kind": "book"}', "{", '{"kind": 1}'])
def test_what_is_no_line_is_named(own_settings: Settings, tmp_path: Path, text: str) -> None:
    path = tmp_path / "opening.jsonl"
    path.write_bytes(text.encode("latin-1"))
    code, said = opening(own_settings, new_name("own"), path)
    assert code
    assert "line 1" in json.dumps(said)
    assert opening(own_settings, new_name("own"), tmp_path / "absent")[0]
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in json.dumps(opening(own_settings, new_name("own"), tmp_path / "pipe"))


def test_demos_name_is_the_demos(own_settings: Settings, tmp_path: Path) -> None:
    code, said = opening(own_settings, "demo", write(tmp_path, lines_of(FIRST)))
    assert code
    assert "--book NAME" in json.dumps(said)
