"""What a comparison at a marker says: users and assets of one side alone, and breaks that it shares with the close."""

from __future__ import annotations

from contextlib import closing

from engine.clock import from_us
from engine.exchange import history
from engine.service.comparing import engine_rows
from engine.store import breaks, markers
from engine.store.connect import connect, typed_errors
from engine.store.markers import MarkerAt, MarkerResult
from tests.fixtures.books import BookUnderTest
from tests.fixtures.breaks import ASSET, USER, as_owner, ghost_deposit, waive

CURSOR = "SELECT last_seq FROM ledger.settlement_cursor"
MOVE = "UPDATE ledger.settlement_cursor SET last_seq = %s RETURNING 1"


def compared(book: BookUnderTest, *more: str) -> MarkerResult:
    """Compare the settled engine, and rows that it never had, as if a marker were next in the journal."""
    cursor, asked = (book.value(q) for q in (CURSOR, "SELECT count(*) FROM recon.markers"))
    assert isinstance(cursor, int)
    assert isinstance(asked, int)
    engine = history.state_at(book.opened.files.journal_dir, cursor)
    rows = [*engine_rows(engine), *more]
    marker = MarkerAt(cursor + 1 + asked, book.days[1], from_us(engine.last_ts_us), "")
    book.value(MOVE, marker.seq)
    with closing(connect(book.opened.url, autocommit=True)) as connection, typed_errors():
        lines = ["".join(rows).encode()]
        assert markers.compare(connection, marker, "book", lines, len(rows), limit_s=60) is not None
        assert markers.compare(connection, marker, "book", lines, len(rows), limit_s=60) is None, "once"
        book.value(MOVE, cursor)
        return markers.recent(connection, 1)[0]


def named(one: MarkerResult) -> list[tuple[str, str, str]]:
    return [(b["account"], b["asset"], b["difference"]) for b in one.detail.get("breaks", ())]


def holds(book: BookUnderTest) -> object:
    return book.value("SELECT count(*) FROM accounts.holds WHERE kind = 'break' AND released_at IS NULL")


def test_a_user_or_an_asset_that_one_side_alone_knows_is_a_break_by_its_name(book: BookUnderTest) -> None:
    assert compared(book).verdict == "pass", "fees, stakes, rewards, transit and debts of a whole demo"
    one = compared(book, "ghost\tBTC\t7e-8\n", "u-0002\tNOPE\t1e0\n", "house:fees\tNOPE\t-5e-1\n")
    assert named(one) == [("ghost", "BTC", "0.00000007"), ("house:fees", "NOPE", "-0.5"), ("u-0002", "NOPE", "1")]
    assert holds(book) == 1, "the one user whom the ledger knows"
    with book.admin() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM recon.marker_balances")
        assert compared(book).verdict == "pass", "who reads the rows, as a dump does, keeps nobody waiting"
    assert holds(book) == 1, "nobody is let go by being right again"


def test_a_marker_and_the_close_see_one_break_and_its_correction_is_no_new_one(book: BookUnderTest) -> None:
    first = book.days[0]
    ghost_deposit(book, first)
    one = compared(book)
    assert named(one) == [(USER, ASSET, "-0.5")]
    assert book.close(first)[-1].step == "engine_vs_ledger"
    # A marker after the verdict leaves the date's own figures alone: the waiver is of those.
    assert compared(book).breaks == 1
    shown = "concat_ws(' ', count(*), min(first_date), max(last_date), bool_and(books_sha256 ~ '^[0-9a-f]{64}$'))"
    assert book.value(f"SELECT {shown} FROM recon.breaks") == f"1 {first} {first} t"
    assert holds(book) == 1
    waive(book, first)
    as_owner(book, lambda c: breaks.correct(c, 1, "ledger", "carl", "dora", "settled twice", "custody:main"))
    assert compared(book).verdict == "pass"
    assert book.close(first, recapture=True)[-1].status == "succeeded"
    assert book.value("SELECT count(*) FROM recon.breaks") == 1
    assert book.value("SELECT count(*) FROM recon.marker_breaks") == 2
