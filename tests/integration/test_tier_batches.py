"""A day's tiers are one request, one command and one sequence, whoever is killed on the way."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from engine.close.policy import Policy
from engine.exchange import commands as cmd
from engine.exchange import history
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.sequencer import Sequencer
from engine.steps import requested
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.fixtures.exchange_service import Served
from tests.fixtures.histories import FIRST, Fill, instant, leased, write_trades, write_world
from tests.fixtures.tier_batches import ask_for_tiers

RATES = [(0, 200, 1000), (1, -50, 600)]
USERS = [(user, 1) for user in range(1, 16)]


def commands(book: BookUnderTest) -> list[cmd.Command]:
    with JournalReader(journal_path(book.opened.files.journal_dir)) as reader:
        return [record.command for record in reader.records()]


def applied(book: BookUnderTest, key: str) -> tuple[Any, ...]:
    """Outcome of the request, and the sequences that its rows have in the database."""
    with book.admin() as owner:
        row = owner.execute(
            "SELECT r.outcome, r.engine_seq, (SELECT array_agg(DISTINCT t.engine_seq) FROM exchange.fee_tiers t"
            " WHERE t.engine_seq = r.engine_seq), (SELECT count(*) FROM exchange.user_tiers u"
            " WHERE u.engine_seq = r.engine_seq) FROM exchange.command_requests r WHERE r.request_key = %s",
            (key,),
        ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("killed_at", ["a row", "the command", "the answers"])
def test_close_killed_while_it_journals_a_batch_applies_it_once_at_one_sequence(
    book: BookUnderTest, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    directory = book.opened.files.journal_dir
    with book.admin() as owner:
        ask_for_tiers(owner, "tiers:1", RATES, USERS)

    class Killed(BaseException):
        pass

    submit, settle, count = Sequencer.submit, requested.settle, 0

    def dying(self: Sequencer, command: cmd.Command, at_us: int) -> Any:
        nonlocal count
        count += 1
        if (killed_at, count) in (("a row", 4), ("the command", 5)):
            self.commit()
            raise Killed
        return submit(self, command, at_us)

    def unanswered(*args: Any) -> Any:
        if killed_at == "the answers" and count:
            raise Killed
        return settle(*args)

    with book.closing(book.days[0]) as context, book.app(autocommit=False) as connection:
        drain = {"first_day": context.book.first_day, "cutoff_rule": context.policy.cutoff_rule, "now": context.now}
        with monkeypatch.context() as patched:
            patched.setattr(Sequencer, "submit", dying)
            patched.setattr(requested, "settle", unanswered)
            with pytest.raises(Killed):
                requested.journal_requests(connection, directory, **drain)
        connection.rollback()
        assert applied(book, "tiers:1") == (None, None, None, 0)
        left = 0 if killed_at == "the answers" else 1
        assert requested.journal_requests(connection, directory, **drain) == left
        assert requested.journal_requests(connection, directory, **drain) == 0
    found = commands(book)
    ends = [seq for seq, command in enumerate(found, 1) if isinstance(command, cmd.SetTiers)]
    assert len(ends) == 1
    assert applied(book, "tiers:1") == ("accepted", ends[0], ends, len(USERS))
    before, after = (history.state_at(directory, ends[0] - n).state for n in (1, 0))
    assert {user: before.account_tiers.get(user, 0) for user, _ in USERS} == dict.fromkeys(range(1, 16), 0)
    assert {user: after.account_tiers[user] for user, _ in USERS} == dict(USERS)
    assert after.tiers[1] == (-50, 600)
    assert after.staged is None


def test_batch_with_an_account_that_the_exchange_does_not_know_is_refused_whole(book: BookUnderTest) -> None:
    with book.admin() as owner:
        ask_for_tiers(owner, "tiers:1", RATES, [*USERS, (999_999, 1)])
        changed = ask_for_tiers(owner, "tiers:2", RATES, USERS)
        # What is added to a batch that was asked for is not what was asked for.
        owner.execute("INSERT INTO exchange.tier_batch_users (batch, user_id, tier) VALUES (%s, 16, 1)", (changed,))
        for table in ("tier_batches", "tier_batch_rates", "tier_batch_users"):
            with pytest.raises(psycopg.Error) as refused:
                owner.execute(f"DELETE FROM exchange.{table}".encode())
            assert refused.value.sqlstate == "CL003"
    book.close(book.days[0])
    assert applied(book, "tiers:1")[0] == "unknown_account"
    assert applied(book, "tiers:2")[0] == "tier_rows_mismatch"
    assert book.value("SELECT count(*) FROM exchange.user_tiers") == 0


def test_tiers_that_the_exchange_refused_are_asked_for_again_by_the_next_close(make_book: MakeBook) -> None:
    policy = Policy("USDT", mark_max_age_s=86_400, fee_tiers=(("0", 200, 1000), ("1000", 100, 800)))
    book = make_book(None, policy)
    fill = Fill(0, instant(0, 5), "BTC-USDT", Decimal(60000), Decimal(1500), 1, 2)
    dates = [FIRST + timedelta(days=n) for n in range(4)]
    with book.admin() as owner:
        write_world(owner, users=3, days=4)
        write_trades(owner, [fill])
        with leased(owner, dates) as epochs:

            def close(day: int) -> Any:
                owner.execute("SELECT positions.write_volume_30d(%s, %s)", (dates[day], epochs[dates[day]]))
                ask = "SELECT rates, users FROM positions.ask_for_tiers(%s, %s)"
                assert owner.execute(ask, (dates[day], epochs[dates[day]])).fetchone() == (0, 0) or day in (0, 1)
                return owner.execute(
                    "SELECT request_key, payload ->> 'tiers', payload ->> 'accounts' FROM exchange.command_requests"
                    " ORDER BY request_no"
                ).fetchall()

            def answer(day: int, outcome: str) -> None:
                owner.execute(
                    "SELECT exchange.answer_requests('{set_tiers}', ARRAY[%s], ARRAY[%s]::bigint[], ARRAY[%s])",
                    (f"tiers:{dates[day]}:1", day + 9, outcome),
                )

            first = (f"tiers:{dates[0]}:1", "2", "2")
            assert close(0) == [first]
            answer(0, "invalid_configuration")
            both = [first, (f"tiers:{dates[1]}:1", "2", "2")]
            assert close(1) == both
            assert close(2) == both, "what is not answered yet is not asked for twice"
            answer(1, "accepted")
            assert close(3) == both


def test_served_exchange_journals_a_batch_in_parts_and_applies_it_once(served: Served) -> None:
    users = [(user, 1) for user in range(1, 9)]
    with served.book.admin() as owner:
        for number in range(3):
            tiers = [(tier, 10 + number, 500) for tier in range(300)]
            ask_for_tiers(owner, f"tiers:{number}", tiers, users)
    query = "SELECT outcome FROM exchange.command_requests WHERE request_key = %s"
    for number in range(3):
        key = f"tiers:{number}"
        served.until(lambda key=key: served.book.value(query, key) is not None, f"{key} is answered")  # type: ignore[misc]
        assert served.book.value(query, key) == "accepted"
        served.kill()
        served.start()
    with served.book.admin() as owner, owner.transaction():
        changed = ask_for_tiers(owner, "tiers:changed", [(9, 1, 500)], users)
        owner.execute("INSERT INTO exchange.tier_batch_users (batch, user_id, tier) VALUES (%s, 16, 1)", (changed,))
    served.until(lambda: served.book.value(query, "tiers:changed") is not None, "the changed batch is answered")
    assert served.book.value(query, "tiers:changed") == "tier_rows_mismatch"
    with JournalReader(journal_path(served.directory)) as reader:
        ends = [record.seq for record in reader.records() if isinstance(record.command, cmd.SetTiers)]
    assert len(ends) == 4
    assert applied(served.book, "tiers:2") == ("accepted", ends[2], [ends[2]], 8)
    assert served.book.value("SELECT count(*) FROM exchange.fee_tiers WHERE engine_seq = %s", ends[2]) == 300
