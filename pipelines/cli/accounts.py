"""`compline accounts`: who may do what, since when, by what authority; and changing it.

What belongs here: looking at accounts, transitions, history, obligations, opening and importing accounts.
What does not: holds, closures and reviews (files beside this one), adjustments and screening (theirs), and every rule.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from engine import clock
from engine.accounts.kyc import Opening
from engine.accounts.matrix import markdown, mermaid
from engine.errors import GateError, InputError, UsageError
from engine.steps.onboarding import onboard as open_account
from engine.store import accounts
from engine.store.account_history import verify_history
from engine.store.connect import connect, typed_errors
from pipelines.books import OpenBook
from pipelines.cli import accounts_adjust, accounts_closure, accounts_hold, accounts_kyc, accounts_screen
from pipelines.cli.account_options import By, Reason, Second, Who, changing, put_done
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, out, put_json, put_table

app = typer.Typer(help="Accounts: states, holds, reviews, closures.", no_args_is_help=True)
app.add_typer(accounts_hold.app, name="hold")
app.command("release")(accounts_hold.release)
app.add_typer(accounts_kyc.app, name="kyc")
app.add_typer(accounts_closure.app, name="closure")
accounts_adjust.register(app)
accounts_screen.register(app)


@contextmanager
def reading(there: OpenBook) -> Iterator[psycopg.Connection]:
    """A connection to look with."""
    with closing(connect(there.url)) as connection, typed_errors():
        yield connection


@app.command()
def show(who: Who, book: BookName = None, as_json: Json = False) -> None:
    """Show an account: state and rights, history, holds, obligations, reviews, closures."""
    with errors(as_json=as_json):
        there = opened(book)
        with reading(there) as connection:
            user = accounts.find(connection, who)
            parts = accounts.details(connection, user.user_id)
        if as_json:
            put_json({"book": there.book.name, **_user(user), **parts})
            return
        put_table(list(_user(user)), [list(_user(user).values())])
        for name, rows in parts.items():
            if rows:
                put_table(list(rows[0]), [list(row.values()) for row in rows], title=name.replace("_", " "))


@app.command("list")
def list_users(
    state: Annotated[str | None, typer.Option(help="Only accounts in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """List accounts, and how many are in each state."""
    with errors(as_json=as_json):
        there = opened(book)
        with reading(there) as connection:
            counts = accounts.counts(connection)
            if state is not None and state not in counts:
                raise UsageError(f"{state} is not a state", rule=f"one of {', '.join(counts)}")
            users = [_user(user) for user in accounts.list_users(connection, state, limit)]
        if as_json:
            put_json({"book": there.book.name, "counts": counts, "users": users})
            return
        put_table(["state", "accounts"], [list(pair) for pair in counts.items()])
        put_table(
            ["user", "account", "state", "version", "trades", "withdraws"], [list(user.values()) for user in users]
        )


@app.command()
def transition(
    who: Who,
    to: Annotated[str, typer.Argument(help="The state to enter.")],
    authority: Annotated[str, typer.Option(help="By what authority: see `compline accounts matrix`.")],
    by: By,
    reason: Reason = "",
    second: Second = None,
    expected_version: Annotated[
        int | None, typer.Option(help="Refuse if the account has moved on since this version.", min=1)
    ] = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Change the state of an account: history, event, obligations and requests to the exchange in one transaction."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            user = accounts.find(connection, who)
            version = accounts.transition(
                connection,
                user.user_id,
                to,
                authority=authority,
                actor=by,
                reason=reason,
                second=second,
                expected_version=expected_version,
            )
            after = accounts.find(connection, who)
        shown = {"account": user.account, "from": user.state, "to": after.state, "version": version, "dry_run": dry_run}
        put_done(there, shown, as_json=as_json)


@app.command("verify-history")
def verify(book: BookName = None, as_json: Json = False) -> None:
    """Recompute every hash of every account's history; the first row that does not hold is named (exit 1)."""
    with errors(as_json=as_json):
        there = opened(book)
        with reading(there) as connection:
            connection.autocommit = True
            found = verify_history(connection)
        put_done(there, {"rows": found.rows, "users": found.users, "digest": found.digest}, as_json=as_json)


@app.command()
def matrix(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As the docs show it.")] = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Show which transitions are allowed, by whom; every other pair of states is refused."""
    with errors(as_json=as_json):
        there = opened(book)
        with reading(there) as connection:
            found = accounts.matrix(connection)
        if as_markdown:
            out.print(markdown(found), markup=False)
            return
        rows = [vars(row) for before in found.states for row in found.transitions if row.from_state == before.state]
        if as_json:
            put_json({"book": there.book.name, "mermaid": mermaid(found), "transitions": rows})
            return
        put_table(["from", "to", "authority", "reason", "second person"], [list(row.values()) for row in rows])


@app.command()
def obligations(dry_run: DryRun = False, book: BookName = None, as_json: Json = False) -> None:
    """List side effects that nobody acknowledged, and tell those that are late, once (exit 1 where there are any)."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            late = accounts.sweep_obligations(connection)
            owed = accounts.owed(connection)
        if as_json:
            put_json({"book": there.book.name, "owed": owed, "late": len(late)})
        else:
            put_table(
                ["id", "account", "what", "cause", "due", "told late", "late"], [list(row.values()) for row in owed]
            )
        if late:
            raise typer.Exit(GateError.exit_code)


@app.command()
def unallocated(book: BookName = None, as_json: Json = False) -> None:
    """List deposits to accounts that may not receive: the house keeps them until their owner is found."""
    with errors(as_json=as_json):
        there = opened(book)
        with reading(there) as connection:
            found = accounts.unallocated(connection)
        if as_json:
            put_json({"book": there.book.name, "unallocated": found})
            return
        put_table(
            ["reference", "for", "asset", "amount", "sequence", "state then", "noted", "adjustment", "status"],
            [list(row.values()) for row in found],
        )


@app.command()
def onboard(
    account: Annotated[str, typer.Argument(help="The new account's name: 1 to 64 of a-z, 0-9 and -.")],
    number: Annotated[int | None, typer.Option(help="Its number; default the next free one.", min=1)] = None,
    name: Annotated[list[str] | None, typer.Option(help="A name that the user goes by; repeat for more.")] = None,
    address: Annotated[
        list[str] | None, typer.Option(metavar="CHAIN:ADDRESS", help="Where the user pays from or to; repeat for more.")
    ] = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Open an account that awaits its review, screened by what is known of its user; again changes nothing."""
    with errors(as_json=as_json):
        opening = Opening(account, number, tuple(name or ()), tuple(_chain_address(one) for one in address or ()))
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            done = open_account(connection, opening, by="accounts onboard", at=clock.now())
        shown = {"user": done.user_id, "account": account, "new": done.made, "new_hits": done.hits, "dry_run": dry_run}
        put_done(there, shown, as_json=as_json)


def _chain_address(text: str) -> tuple[str, str]:
    chain, colon, address = text.partition(":")
    if not (chain and colon and address):
        raise UsageError("an address is not CHAIN:ADDRESS", next_step="such as ethereum:0x…")
    return chain, address


@app.command("import")
def import_users(
    file: Annotated[Path, typer.Argument(help="CSV with the columns user_id, account, status.")],
    by: By,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Bring accounts over from a table of the three old values (active, suspended, banned); each keeps its meaning."""
    with errors(as_json=as_json):
        rows = read_old_users(file)
        there = opened(book)
        with changing(there, dry_run=dry_run, as_owner=True) as connection:
            made = accounts.import_users(connection, rows, source=file.name, actor=by)
        put_done(there, {"rows": len(rows), "new": made, "dry_run": dry_run}, as_json=as_json)


def read_old_users(file: Path) -> list[tuple[int, str, str]]:
    """Number, name and old status of every row.

    Raises:
        InputError: the file cannot be read, or a row is not one of a user.
    """
    try:
        with file.open(encoding="utf-8", newline="") as opened_file:
            reader = csv.DictReader(opened_file)
            if not {"user_id", "account", "status"} <= set(reader.fieldnames or ()):
                raise InputError(
                    f"{file} has no columns user_id, account, status", next_step="name them in its first row"
                )
            rows = []
            for number, row in enumerate(reader, 2):
                if not (row["user_id"] or "").isdecimal() or len(row["user_id"]) > 18:
                    raise InputError(f"{file}, line {number}: {row['user_id']!r} is no number of a user")
                rows.append((int(row["user_id"]), row["account"] or "", row["status"] or ""))
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read: {error}", next_step="give a CSV file in UTF-8") from None


def _user(user: accounts.User) -> dict[str, Any]:
    return {
        "user": user.user_id,
        "account": user.account,
        "state": user.state,
        "version": user.version,
        "may_trade": user.may_trade,
        "may_withdraw": user.may_withdraw,
    }
