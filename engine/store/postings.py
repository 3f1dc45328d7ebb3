"""Writing journals and their legs: one COPY each, accounts made on the way.

What belongs here: the one path by which any journal enters the ledger, for settlement and for the close.
What does not: deciding legs (see `engine.exchange.postings`, `engine.steps`), and trades (see `settlement`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date

import psycopg

from engine.clock import from_us, iso_us
from engine.errors import LedgerRefusedError
from engine.ledger.journal import Journal, check_balanced
from engine.store.copy_binary import HEADER, TRAILER

AccountIds = dict[tuple[str, str], int]
_WRITE = 1 << 20


def amount_text(units: int, decimals: int) -> str:
    """Smallest units as plain decimal text, without a `Decimal` on the way."""
    whole, rest = divmod(abs(units), 10**decimals)
    text = f"{whole}.{rest:0{decimals}d}" if rest else str(whole)
    return f"-{text}" if units < 0 else text


def copy_rows(connection: psycopg.Connection, target: str, rows: Iterable[Sequence[object]]) -> None:
    """COPY rows as text; None is null, everything else its plain text.

    Args:
        connection: inside the caller's transaction.
        target: `schema.table (columns)`, from our own code only.
        rows: values whose text is the database's text.
    """
    lines: list[str] = []
    with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN".encode()) as copy:
        for row in rows:
            lines.append("\t".join("\\N" if v is None else str(v).replace("\\", "\\\\") for v in row))
            if len(lines) >= 20_000:
                copy.write("\n".join(lines) + "\n")
                lines.clear()
        if lines:
            copy.write("\n".join(lines) + "\n")


def copy_binary(connection: psycopg.Connection, target: str, blocks: Iterable[bytes | memoryview]) -> None:
    """COPY whole rows in the binary format.

    Args:
        connection: inside the caller's transaction.
        target: `schema.table (columns)`, from our own code only.
        blocks: rows as `engine.store.copy_binary` makes them, any number in a block.
    """
    with copied(connection, target, blocks):
        pass


@contextmanager
def copied(connection: psycopg.Connection, target: str, blocks: Iterable[bytes | memoryview]) -> Iterator[None]:
    """`copy_binary`, whose statement ends with the `with`: all rows are sent before, triggers on it run at the end."""
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {target} FROM STDIN (FORMAT binary)".encode()) as copy,
    ):
        copy.write(HEADER)
        for block in blocks:
            for start in range(0, len(block), _WRITE):
                copy.write(block[start : start + _WRITE])
        copy.write(TRAILER)
        yield


def legs_of(dates: Collection[date]) -> str:
    """The table that legs of these close dates are written to: the partition of one date, all of them otherwise."""
    if len(dates) != 1:
        return "ledger.ledger_entries"
    (only,) = dates
    return f"ledger.ledger_entries_{only:%Y%m%d}"


def reserve(connection: psycopg.Connection, how_many: int) -> int:
    """The first of a block of consecutive posting numbers."""
    row = connection.execute("SELECT ledger.reserve_postings(%s)", (how_many,)).fetchone()
    assert row is not None
    return int(row[0])


def reserve_in_turn(connection: psycopg.Connection, how_many: int) -> int:
    """`reserve`, for settlement: a transaction of it may draw while the one before it has not committed."""
    row = connection.execute("SELECT ledger.reserve_in_turn(%s)", (how_many,)).fetchone()
    assert row is not None
    return int(row[0])


def find_accounts(connection: psycopg.Connection, pairs: Sequence[tuple[str, str]]) -> list[int]:
    """The id of each (account, asset), 0 where there is none."""
    if not pairs:
        return []
    # A name is printable, so a line break parts two: a text of all of them costs a fraction of an array's parameter.
    names, assets = ("\n".join(column) for column in zip(*pairs, strict=True))
    with connection.cursor(binary=True) as cursor:
        row = cursor.execute(
            "SELECT array_agg(coalesce(a.account_id, 0) ORDER BY w.n)"
            " FROM unnest(string_to_array(%s, E'\\n'), string_to_array(%s, E'\\n'))"
            " WITH ORDINALITY AS w (account, asset, n)"
            " LEFT JOIN ledger.accounts a ON a.account = w.account AND a.asset = w.asset",
            (names, assets),
        ).fetchone()
    assert row is not None
    return list(row[0])


def ensure_accounts(connection: psycopg.Connection, wanted: set[tuple[str, str]], known: AccountIds) -> None:
    """Fill `known` with the ids of the wanted (account, asset), making those that are not there."""
    missing = sorted(wanted - known.keys())
    if not missing:
        return
    names, assets = [account for account, _ in missing], [asset for _, asset in missing]
    found = connection.execute("SELECT account, asset, account_id FROM ledger.ensure_accounts(%s, %s)", (names, assets))
    for account, asset, account_id in found:
        known[account, asset] = account_id


def existing(connection: psycopg.Connection, journals: Sequence[Journal]) -> set[tuple[str, str]]:
    """References of these (non-trade) journals that the ledger has already, with the same payload.

    Raises:
        LedgerRefusedError: the ledger has a reference with another payload; both are named.
    """
    if not journals:
        return set()
    rows = connection.execute(
        "SELECT j.reference_type, j.reference_id, j.posting_no, j.row_hash"
        " FROM unnest(%s::text[], %s::text[]) AS w (t, i)"
        " JOIN ledger.journals j ON j.reference_type = w.t AND j.reference_id = w.i AND j.kind <> 'trade'",
        ([j.reference_type for j in journals], [j.reference_id for j in journals]),
    ).fetchall()
    known = {(str(row[0]), str(row[1])): (row[2], bytes(row[3])) for row in rows}
    for journal in journals:
        there = known.get((journal.reference_type, journal.reference_id))
        if there and there[1] != journal.row_hash():
            raise LedgerRefusedError(
                f"{journal.reference_type} {journal.reference_id} stands in the ledger as posting {there[0]} with hash "
                f"{there[1].hex()}; the new payload has hash {journal.row_hash().hex()}",
                rule="same reference, same payload",
                next_step="correct by a reversal and a new journal with its own reference",
            )
    return set(known)


def post(
    connection: psycopg.Connection,
    journals: Sequence[Journal],
    *,
    decimals: Mapping[str, int],
    actor: str,
    known: AccountIds,
    first: int | None = None,
    epoch: int | None = None,
) -> int:
    """Write balanced journals and all of their legs, inside the caller's transaction.

    Args:
        connection: open transaction as the application.
        journals: new ones only (see `existing`).
        decimals: of each asset that occurs.
        actor: who posts.
        known: cache of account ids, filled on the way.
        first: posting number of the first journal, where a block was reserved before.
        epoch: the closer's epoch, for journals of origin `close`.

    Returns:
        The posting number of the first journal; the others follow by one each.

    Raises:
        LedgerRefusedError: a journal does not balance (the database would refuse it too).
    """
    if not journals:
        return 0
    for journal in journals:
        check_balanced(journal)
    ensure_accounts(connection, {(leg.account, leg.asset) for j in journals for leg in j.legs}, known)
    start = reserve(connection, len(journals)) if first is None else first
    copy_rows(
        connection,
        "ledger.journals (posting_no, kind, reference_type, reference_id, engine_seq, effective_at, close_date,"
        " origin, epoch, actor, reason, row_hash)",
        (
            (
                start + n,
                j.kind,
                j.reference_type,
                j.reference_id,
                j.engine_seq,
                iso_us(from_us(j.effective_us)),
                j.close_date,
                j.origin,
                epoch,
                j.actor or actor,
                j.reason,
                "\\x" + j.row_hash().hex(),
            )
            for n, j in enumerate(journals)
        ),
    )
    copy_rows(
        connection,
        "ledger.ledger_entries (posting_no, close_date, account_id, asset, amount)",
        (
            (start + n, j.close_date, known[leg.account, leg.asset], leg.asset, text)
            for n, j in enumerate(journals)
            for leg in j.legs
            for text in (amount_text(leg.units, decimals[leg.asset]),)
        ),
    )
    return start
