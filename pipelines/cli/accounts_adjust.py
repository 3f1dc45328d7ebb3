"""`compline accounts adjust|approve|…`: corrections of a balance by two people, and the caps on them.

What belongs here: the commands. What does not: the rules (the database's), and the engine's part.
"""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import typer

from engine.clock import iso_us
from engine.errors import InputError, UsageError
from engine.money import parse_decimal, text_of
from engine.store import accounts, adjustments
from engine.store.adjustments import Adjustment
from engine.store.connect import connect, typed_errors
from pipelines.cli.account_options import By, Reason, Who, changing, put_done
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table

Number = Annotated[int, typer.Argument(metavar="ID", help="The adjustment's number.", min=1)]
Credit = Annotated[str | None, typer.Option(help="Give the account so much.")]
Debit = Annotated[str | None, typer.Option(help="Take so much from the account; never below zero.")]
Payload = Annotated[str, typer.Option(help="SHA-256 of what is decided on, as `accounts adjustments` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `compline accounts`."""
    for command in (adjust, revise, approve, reject, cap, caps):
        app.command()(command)
    app.command("adjustments")(list_adjustments)


def adjust(
    who: Who,
    asset: Annotated[str, typer.Argument(help="Its symbol.")],
    by: By,
    ticket: Annotated[str, typer.Option(help="Where it was asked for; one ticket, one adjustment.")],
    reason: Reason = "",
    reason_code: Annotated[
        str,
        typer.Option(help="goodwill, error_correction, fee_refund, recovery, insurance, dust or unallocated_deposit."),
    ] = "error_correction",
    credit: Credit = None,
    debit: Debit = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Ask for a credit or debit; another person approves it by its payload's hash."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            asked = adjustments.request(
                connection,
                accounts.find(connection, who).user_id,
                asset,
                _amount(credit, debit),
                reason_code=reason_code,
                reason=reason,
                ticket=ticket,
                maker=by,
            )
        put_done(there, _shown(asked, dry_run), as_json=as_json)


def revise(
    adjustment_id: Number,
    by: By,
    reason: Annotated[str | None, typer.Option(help="Another reason.")] = None,
    reason_code: Annotated[str | None, typer.Option(help="Another reason code.")] = None,
    credit: Credit = None,
    debit: Debit = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Change an adjustment that nobody decided: another payload with another hash; the old is void."""
    with errors(as_json=as_json):
        there = opened(book)
        amount = None if credit is None and debit is None else _amount(credit, debit)
        with changing(there, dry_run=dry_run) as connection:
            made = adjustments.revise(
                connection, adjustment_id, amount=amount, reason_code=reason_code, reason=reason, maker=by
            )
        put_done(there, _shown(made, dry_run), as_json=as_json)


def approve(
    adjustment_id: Number,
    payload: Payload,
    by: By,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Approve an adjustment as it stands: it becomes a command in the engine's journal."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            done = adjustments.approve(connection, adjustment_id, payload, by)
        put_done(there, _shown(done, dry_run), as_json=as_json)


def reject(
    adjustment_id: Number,
    payload: Payload,
    by: By,
    reason: Reason = "",
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Reject an adjustment, or take back one's own."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            done = adjustments.reject(connection, adjustment_id, payload, by, reason)
        put_done(there, _shown(done, dry_run), as_json=as_json)


def list_adjustments(
    adjustment_id: Annotated[int | None, typer.Option("--id", help="Only this one.", min=1)] = None,
    status: Annotated[
        str | None, typer.Option(help="requested, rejected, approved, accepted, refused or settled.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """List adjustments, the last one first: who asked, who decided, what the engine answered."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            found = adjustments.find(connection, adjustment_id=adjustment_id, status=status, limit=limit)
        rows = [_row(one) for one in found]
        if as_json:
            put_json({"book": there.book.name, "adjustments": rows})
        else:
            put_table(list(rows[0]) if rows else ["adjustment"], [list(row.values()) for row in rows])


def cap(
    asset: Annotated[str, typer.Argument(help="Its symbol.")],
    max_amount: Annotated[str, typer.Option(help="The most that one adjustment may move.")],
    max_share_ppm: Annotated[
        int, typer.Option(help="The most of all customers' holdings that one may move, in millionths.", min=0)
    ],
    max_maker_day: Annotated[str, typer.Option(help="The most of one maker and UTC day.")],
    by: By,
    second: Annotated[str, typer.Option(help="The second person.")],
    reason: Reason = "",
    effective_at: Annotated[
        str | None, typer.Option(help="From when on, as 2026-03-01T00:00:00Z; default now, never in the past.")
    ] = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Set an asset's caps on adjustments; without any, every adjustment of it is refused. Needs the owner's login."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run, as_owner=True) as connection:
            number = adjustments.set_cap(
                connection,
                asset,
                max_amount=parse_decimal(max_amount, record="--max-amount"),
                max_share_ppm=max_share_ppm,
                max_maker_day=parse_decimal(max_maker_day, record="--max-maker-day"),
                effective_at=_instant(effective_at),
                reason=reason,
                maker=by,
                checker=second,
            )
        put_done(there, {"cap": number, "asset": asset, "dry_run": dry_run}, as_json=as_json)


def caps(book: BookName = None, as_json: Json = False) -> None:
    """List the caps on adjustments, with those of earlier and later times."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            found = adjustments.caps(connection)
        if as_json:
            put_json({"book": there.book.name, "caps": found})
        else:
            columns = list(found[0]) if found else ["asset"]
            put_table(columns, [list(row.values()) for row in found])


def _amount(credit: str | None, debit: str | None) -> Decimal:
    """The signed amount of the two options.

    Raises:
        UsageError: none or both are given.
        InputError: it is no positive amount.
    """
    text = credit if credit is not None else debit
    if text is None or (credit is not None and debit is not None):
        raise UsageError("an adjustment is either a --credit or a --debit", next_step="name one of them")
    amount = parse_decimal(text, record="the adjustment")
    if amount <= 0:
        raise InputError(f"{text} is no amount to credit or debit", rule="it is positive; the option says which way")
    return amount if credit is not None else -amount


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        raise InputError(f"{text!r} is no instant", rule="as 2026-03-01T00:00:00Z") from None


def _row(one: Adjustment) -> dict[str, Any]:
    return {
        "adjustment": one.adjustment_id,
        "revision": one.revision,
        "account": one.account,
        "asset": one.asset,
        "amount": text_of(one.amount),
        "reason_code": one.reason_code,
        "reason": one.reason,
        "ticket": one.ticket,
        "maker": one.maker,
        "at": iso_us(one.at),
        "payload_sha256": one.payload_sha256,
        "status": one.status,
        "checker": one.checker,
        "decided_at": iso_us(one.decided_at) if one.decided_at else None,
        "reference": one.reference,
        "sequence": one.engine_seq,
        "outcome": one.outcome,
        "posting": one.posting_no,
        "close_date": str(one.close_date) if one.close_date else None,
    }


def _shown(one: Adjustment, dry_run: bool) -> dict[str, Any]:
    keys = ("adjustment", "revision", "account", "asset", "amount", "status", "maker", "checker", "payload_sha256")
    row = _row(one)
    return {key: row[key] for key in keys} | {"reference": one.reference, "dry_run": dry_run}
