"""One break is one row: over later dates, other versions, captures read again, and corrections after its barrier."""

from __future__ import annotations

import pytest

from engine.errors import ComplineError
from engine.steps.plan import STEPS
from engine.steps.runner import run_step
from engine.store import breaks, reopening
from tests.fixtures.books import BookUnderTest
from tests.fixtures.breaks import as_app, as_owner, ghost_deposit, state, waive


def alive(book: BookUnderTest) -> tuple[object, object]:
    """How many breaks there ever were, and holds of breaks in force."""
    return (
        book.value("SELECT count(*) FROM recon.breaks"),
        book.value("SELECT count(*) FROM accounts.holds WHERE kind = 'break' AND released_at IS NULL"),
    )


def events(book: BookUnderTest) -> list[tuple[str, str]]:
    with book.app() as connection:
        return [(one["what"], one["actor"]) for one in breaks.events(connection, 1)]


def test_a_break_that_is_gone_on_a_later_date_stays_open_until_two_people_clear_it(broken: BookUnderTest) -> None:
    first, second = broken.days
    waive(broken, first)
    assert broken.close(first)[-1].step == "evidence_packs"
    ghost_deposit(broken, second, "-0.5", "taken-back")
    assert broken.close(second)[-1].step == "evidence_packs"
    assert (state(broken), alive(broken)) == ("open", (1, 1))
    assert broken.value("SELECT last_date FROM recon.breaks") == first
    as_app(broken, lambda c: breaks.explain(c, 1, "ada", "timing", "settled back on the next date", None))
    with pytest.raises(ComplineError, match="two different people"):
        as_owner(broken, lambda c: breaks.close(c, 1, "ada", "Ada ", "gone"))
    assert alive(broken) == (1, 1)
    as_owner(broken, lambda c: breaks.close(c, 1, "ada", "ben", "gone"))
    assert (state(broken), alive(broken)) == ("closed", (1, 0))


def test_corrected_before_its_date_seals_it_is_the_same_break_and_its_waiver_must_still_be_large_enough(
    broken: BookUnderTest,
) -> None:
    first, second = broken.days
    as_owner(broken, lambda c: breaks.correct(c, 1, "ledger", "carl", "dora", "settled twice", "custody:main"))
    waive(broken, first, "0.49999999")
    stopped = broken.close(first)[-1]
    assert (stopped.step, stopped.status, state(broken), alive(broken)) == (
        "engine_vs_ledger",
        "failed",
        "corrected",
        (1, 1),
    )
    waive(broken, first)
    assert broken.close(first)[-1].step == "evidence_packs"
    folder = broken.opened.files.evidence_dir / broken.opened.book.name / f"{first}-v1"
    listed = (folder / "report.html").read_text().partition("<h2>Breaks</h2>")[2].partition("<h2>")[0]
    assert [part for part in ("u-0001", "-0.5", "corrected") if part not in listed] == []
    as_owner(broken, lambda c: breaks.close(c, 1, "emil", "dora", "corrected on the next date"))
    assert broken.close(second)[-1].step == "evidence_packs"
    with broken.app() as connection:
        reopening.reopen(connection, first, reason="a drill", maker="ada", checker="ben")
    for day in (first, second):
        assert broken.close(day)[-1].step == "evidence_packs"
    assert (state(broken), alive(broken)) == ("closed", (1, 0))
    assert broken.value("SELECT version FROM recon.breaks") == 2


def test_gone_when_read_again_and_there_again_it_is_the_same_break(book: BookUnderTest) -> None:
    first = book.days[0]
    with book.admin() as connection:
        connection.execute(
            "CREATE FUNCTION public.off_by_one() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN NEW.available := NEW.available + 0.000001; RETURN NEW; END$$"
        )
        spoil = (
            "CREATE TRIGGER zz BEFORE INSERT ON exchange.engine_balances FOR EACH ROW WHEN (NEW.account = 'u-0001'"
            " AND NEW.asset = 'USDT') EXECUTE FUNCTION public.off_by_one()"
        )
        connection.execute(spoil)
        assert book.close(first)[-1].status == "failed"
        connection.execute("DROP TRIGGER zz ON exchange.engine_balances")
        with book.closing(first, recapture=True) as context:
            for step in STEPS[: 1 + [step.name for step in STEPS].index("engine_vs_ledger")]:
                run_step(step, context)
        assert (state(book), alive(book)) == ("corrected", (1, 1))
        connection.execute(spoil)
        assert book.close(first, recapture=True)[-1].status == "failed"
    assert (state(book), alive(book)) == ("open", (1, 1))
    assert events(book) == [("corrected", "recon"), ("reopened", "recon")]


def test_a_correction_that_the_engine_refused_is_tried_again_and_one_that_is_asked_for_is_the_only_one(
    broken: BookUnderTest,
) -> None:
    as_owner(broken, lambda c: breaks.correct(c, 1, "engine", "carl", "dora", "the engine lost it", None))
    for side, counter in (("engine", None), ("ledger", "custody:main")):
        with pytest.raises(ComplineError, match="engine side of break 1 is being corrected already"):
            as_owner(broken, lambda c, s=side, o=counter: breaks.correct(c, 1, s, "carl", "dora", "again", o))
    with broken.admin() as connection:
        connection.execute(
            "UPDATE exchange.command_requests SET outcome = 'insufficient_balance', engine_seq = 1, answered_at = now()"
            " WHERE request_key = 'break:1:engine'"
        )
    assert (state(broken), events(broken)[-1]) == ("open", ("reopened", "exchange"))
    key = as_owner(broken, lambda c: breaks.correct(c, 1, "engine", "carl", "dora", "funds are free now", None))
    assert key == "break:1:engine:2"
    with broken.admin() as connection:
        connection.execute(
            "UPDATE exchange.command_requests SET outcome = 'insufficient_balance', engine_seq = 2, answered_at = now()"
            " WHERE request_key = 'break:1:engine:2'"
        )
    as_owner(broken, lambda c: breaks.correct(c, 1, "ledger", "carl", "dora", "so the ledger is", "custody:main"))
    assert (state(broken), alive(broken)) == ("corrected", (1, 1))
    assert broken.value("SELECT max(attempt) FROM recon.corrections") == 3
