"""Alerts over real HTTP: each thing once, what cannot be sent is kept and tried again, silence pages."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine import clock
from engine.close.alerts import from_event
from engine.close.policy import GATES, Policy
from engine.errors import ComplineError, ConfigError, GateError
from engine.gateways.alert_channels import channels_of
from engine.sim.demo_world import OUTSIDE
from engine.steps.context import Step, StepOutput
from engine.steps.runner import run_step
from engine.store.connect import connect
from engine.store.runs import put_event
from pipelines import watch
from pipelines.local.urls import DatabaseUrl
from tests.fixtures.alerts import Receiver
from tests.fixtures.books import BookUnderTest, MakeBook
from tests.integration.test_gate_paths import TAMPERED, tamper

ROOT = Path(__file__).resolve().parents[2]
QUIET = Policy(reporting_currency="USDT", mark_max_age_s=86_400, seal_deadline_s=604_800)


def on_time(book: BookUnderTest) -> Any:
    """An instant at which no date of a two-day book is overdue yet."""
    return QUIET.cutoff_rule.instant(book.days[0]) + timedelta(hours=1)


def test_a_failed_gate_reaches_a_channel_once_with_what_who_how_much_and_where_to_look(
    make_book: MakeBook, receiver: Receiver
) -> None:
    book = make_book(policy=QUIET)
    day = book.days[0]
    tamper(book, day)
    places = channels_of(receiver.url)
    for _ in range(2):
        assert book.close(day)[-1].status == "failed"
        watch.look(book.opened, places, on_time(book))
    told = [post for post in receiver.posts if "engine_vs_ledger" in post["title"]]
    assert len(told) == 1
    assert told[0]["title"] == f"[critical] engine_vs_ledger of {day} failed in book {book.opened.book.name}"
    for part in (TAMPERED[0], f"0.000001 {TAMPERED[1]}", "docs/runbooks/engine_vs_ledger.md", f"close status {day}"):
        assert part in told[0]["message"]


def test_what_could_not_be_checked_what_failed_and_what_ran_too_long_each_reach_a_channel(
    make_book: MakeBook, receiver: Receiver
) -> None:
    policy = replace(QUIET, **OUTSIDE)
    book = make_book(policy=policy)
    day = book.days[0]
    assert book.close(day)[-1].status == "unknown"  # nobody collected the wallets

    def slow(connection: psycopg.Connection, *_: object) -> StepOutput:
        connection.execute("SELECT pg_sleep(30)")
        return StepOutput(0, "")

    def refused(*_: object) -> StepOutput:
        raise GateError("the volumes do not add up", next_step="look at them")

    for name, write in (("mark_prices", slow), ("volume_30d", refused)):
        hurried = replace(policy, step_timeout_s=1)
        with book.closing(day, policy=hurried) as context, pytest.raises(ComplineError):
            run_step(Step(name, "cutoff", lambda *_: {"always": clock.iso_us(clock.now())}, write), context)
    watch.look(book.opened, channels_of(receiver.url), on_time(book))
    told = {post["title"].removesuffix(f" in book {book.opened.book.name}"): post["message"] for post in receiver.posts}
    unknown = told[f"[error] ledger_vs_custody of {day} could not be checked"]
    for part in ("could not be used: 21", "cold/BTC: cold/BTC has no stored reading", "ledger_vs_custody.md"):
        assert part in unknown
    assert "step_failed.md" in told[f"[critical] volume_30d of {day} failed"]
    assert f"close status {day}" in told[f"[critical] mark_prices of {day} ran past its time limit"]
    assert book.value("SELECT count(*) FROM events.alerts WHERE title LIKE '%%time limit%%'") == 1


def test_an_alert_that_cannot_be_sent_is_recorded_and_tried_again(
    book: BookUnderTest, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "FIRST_WAIT", timedelta(0))
    places = channels_of(receiver.url)
    receiver.status = 503
    now = clock.now()
    first = watch.look(book.opened, places, now)
    assert first.raised
    assert len(first.unsent) == len(first.raised)
    stored = book.value("SELECT string_agg(last_error, ' ') FROM events.alert_deliveries")
    assert "503" in str(stored)
    assert "hunter2" not in str(stored) + str(first) + str(places)
    receiver.status = 200
    again = watch.look(book.opened, places, now)
    assert (again.raised, again.sent, again.unsent) == ([], len(first.raised), [])
    assert book.value("SELECT min(attempts) FROM events.alert_deliveries WHERE delivered_at IS NOT NULL") == 2
    assert watch.look(book.opened, places, now).sent == 0
    assert len(receiver.posts) == len(first.raised)


def test_a_date_past_its_deadline_pages_without_any_scheduler_until_it_is_sealed(
    make_book: MakeBook, receiver: Receiver
) -> None:
    book = make_book(policy=replace(QUIET, seal_deadline_s=3600))
    places = channels_of(receiver.url)
    first, second = book.days
    end = QUIET.cutoff_rule.instant(second)
    assert watch.look(book.opened, places, QUIET.cutoff_rule.instant(first) + timedelta(minutes=59)).overdue == []
    late = watch.look(book.opened, places, end + timedelta(hours=2))
    assert late.overdue == [first, second]
    assert late.raised == [f"{first} of {book.opened.book.name} is not sealed: it was due at {second} 01:00 UTC"]
    assert watch.look(book.opened, places, end + timedelta(hours=3)).raised == []
    assert len(watch.look(book.opened, places, end + timedelta(hours=7)).raised) == 1  # the policy's pause has passed
    book.close(first)
    book.close(second)
    assert watch.look(book.opened, places, end + timedelta(hours=20)).overdue == []


def test_the_heartbeat_goes_out_only_while_nothing_is_overdue(
    make_book: MakeBook, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{receiver.server.server_port}/beat"
    book = make_book(policy=replace(QUIET, seal_deadline_s=3600))
    looks = iter([False, False, True])
    opened = replace(book.opened, settings=book.opened.settings.model_copy(update={"heartbeat_url": _Secret(url)}))
    watch.watch(opened, every_s=0, talk=lambda line: None, stop=lambda: next(looks))
    assert receiver.beats == 0
    monkeypatch.setattr(watch, "_overdue", lambda *_: [])
    looks = iter([False, False, True])
    watch.watch(opened, every_s=0, talk=lambda line: None, stop=lambda: next(looks))
    assert receiver.beats == 2


class _Secret:
    def __init__(self, text: str) -> None:
        self.text = text

    def get_secret_value(self) -> str:
        return self.text


def test_a_database_that_is_away_is_told_at_once_and_once(book: BookUnderTest, receiver: Receiver) -> None:
    servers = book.opened.servers
    away = DatabaseUrl("127.0.0.1", "1", "compline_app", "x", "nowhere")
    opened = replace(
        book.opened,
        servers=replace(servers, app=away),
        settings=book.opened.settings.model_copy(update={"alert_urls": _Secret(receiver.url)}),
    )
    looks = iter([False, False, False, True])
    watch.watch(opened, every_s=0, talk=lambda line: None, stop=lambda: next(looks))
    assert [post["title"] for post in receiver.posts] == [f"[critical] book {opened.book.name} cannot be looked at"]


def test_two_watches_at_once_tell_each_thing_once(make_book: MakeBook, receiver: Receiver) -> None:
    book = make_book(policy=QUIET)
    with connect(book.opened.url, autocommit=True) as connection:
        for number in range(30):
            put_event(connection, f"k{number}", "eod.recon.failed", failure(book.days[0], step=f"s{number}"))
    threads = [
        threading.Thread(target=watch.look, args=(book.opened, channels_of(receiver.url), on_time(book)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watch.look(book.opened, channels_of(receiver.url), on_time(book))
    assert len(receiver.posts) == len({post["title"] for post in receiver.posts}) == 30


def failure(day: date, **changes: Any) -> dict[str, Any]:
    return {"book": "b", "close_date": str(day), "version": 1, "step": "x", "status": "failed", "run_id": "r"} | changes


def test_what_could_not_be_checked_says_so_and_a_timeout_too() -> None:
    unknown = from_event("eod.cutoff.failed", failure(date(2026, 3, 2), step="mark_prices", status="unknown"))
    assert unknown is not None
    assert ("could not be checked" in unknown.title, unknown.severity) == (True, "error")
    late = from_event("eod.cutoff.failed", failure(date(2026, 3, 2), detail={"error": "StepTimeoutError", "what": "w"}))
    assert late is not None
    assert "ran past its time limit" in late.title
    assert from_event("eod.recon.completed", failure(date(2026, 3, 2))) is None
    many = [{"account": f"u{n}", "asset": "BTC", "expected": "1", "actual": "2", "difference": "1"} for n in range(900)]
    listed = from_event("eod.recon.failed", failure(date(2026, 3, 2), detail={"breaks": many, "break_count": 900}))
    assert listed is not None
    assert listed.facts[0] == ("breaks", "900")
    assert len(listed.facts) == 11


def test_a_break_that_nobody_touches_is_told_again_as_stuck(make_book: MakeBook, receiver: Receiver) -> None:
    book = make_book(policy=QUIET)
    tamper(book, book.days[0])
    book.close(book.days[0])
    done = watch.look(book.opened, channels_of(receiver.url), on_time(book) + timedelta(days=4))
    assert [title for title in done.raised if "has been open for" in title] == [
        f"break 1 of {book.opened.book.name} has been open for 5 days"
    ]


def test_a_line_that_is_no_channel_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="line 2") as refused:
        channels_of("# ours\nnonsense-hunter2\n")
    assert "hunter2" not in str(refused.value)
    assert channels_of("\n# nothing\n") == []


def test_a_channel_that_is_gone_from_the_settings_is_an_unsent_alert(book: BookUnderTest, receiver: Receiver) -> None:
    receiver.status = 500
    watch.look(book.opened, channels_of(receiver.url), clock.now())
    with book.admin() as connection:
        connection.execute("UPDATE events.alert_deliveries SET next_try_at = '-infinity'")
    done = watch.look(book.opened, [], clock.now())
    assert done.unsent
    assert "not configured any more" in done.unsent[0]


def test_a_heartbeat_that_cannot_be_told_is_said() -> None:
    with pytest.raises(watch.HeartbeatError, match="heartbeat"):
        watch.beat("http://127.0.0.1:1/")


def test_a_heartbeat_that_is_not_heard_is_no_database_that_is_away(book: BookUnderTest, receiver: Receiver) -> None:
    settings = {"heartbeat_url": _Secret("http://127.0.0.1:1/"), "alert_urls": _Secret(receiver.url)}
    opened = replace(book.opened, settings=book.opened.settings.model_copy(update=settings))
    heard: list[str] = []
    looks = iter([False, False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "_overdue", lambda *_: [])
        watch.watch(opened, every_s=0, talk=heard.append, stop=lambda: next(looks))
    assert len([line for line in heard if "heartbeat could not be told" in line]) == 2
    assert receiver.posts == []


def test_every_alert_leads_to_a_runbook_that_is_there() -> None:
    source = (ROOT / "engine/close/alerts.py").read_text() + (ROOT / "pipelines/watch.py").read_text()
    named = set(re.findall(r'"([a-z_]+\.md)"', source)) | {f"{gate}.md" for gate in GATES}
    assert len(named) > 8
    assert [name for name in named if not (ROOT / "docs/runbooks" / name).is_file()] == []
