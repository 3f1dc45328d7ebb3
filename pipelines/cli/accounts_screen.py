"""`compline accounts screen|hits|clear|identify|capture-list`: users and sanctions lists.

What belongs here: the commands. What does not: comparing (`engine.screening`), and what a hit does (the database's).
What these commands print of a hit are numbers and ids, never names or addresses of users.
"""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from engine import clock
from engine.close.policy import Policy
from engine.errors import ConfigError, InputError, UsageError
from engine.gateways.list_files import ListFile
from engine.screening.lists import ListSpec, read_list
from engine.steps.screening import Screened, list_at, screen_all, screen_user, specs
from engine.store import accounts, screening
from engine.store.connect import connect, typed_errors
from pipelines.books import OpenBook
from pipelines.cli.account_options import By, Reason, Who, changing, put_done
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table, talk


def register(app: typer.Typer) -> None:
    """Add the commands to `compline accounts`."""
    for command in (screen, hits, clear, identify):
        app.command()(command)
    app.command("capture-list")(capture_list)


def screen(
    who: Annotated[str | None, typer.Argument(metavar="[USER]", help="An account's name or number.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody, as far as something is new.")] = False,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Compare a user, or everybody, with the lists of the policy as they were captured last; hits act at once."""
    with errors(as_json=as_json):
        if (who is None) is not everybody:
            raise UsageError("screen one user, or --all", next_step="compline accounts screen USER")
        there = opened(book)
        policy = there.policy_on(max(clock.now().date(), there.book.first_day))
        if not policy.screening_lists:
            raise ConfigError(
                f"the policy of book {there.book.name} names no list",
                rule="nothing to compare with is not the same as no hits",
                next_step="name lists in screening_lists: ofac:sdn_xml",
            )
        now = clock.now()
        done: list[Screened] = []
        with changing(there, dry_run=dry_run) as connection:
            if who is not None:
                done = screen_user(connection, policy, accounts.find(connection, who).user_id, now)
            else:
                done = _everybody(connection, policy, now)
        _put_screened(there, done, dry_run=dry_run, as_json=as_json)


def _everybody(connection: psycopg.Connection, policy: Policy, now: datetime) -> list[Screened]:
    """Screen who is new, and everybody against what is new on a list."""
    done = []
    for spec in specs(policy):
        reading, listed = list_at(connection, spec, now, policy.screening_list_max_age_s)
        done.append(screen_all(connection, spec, reading, listed, policy.screening_threshold, None))
    return done


def _put_screened(there: OpenBook, done: list[Screened], *, dry_run: bool, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "list": one.name,
            "version": one.version,
            "entries": one.entries,
            "names_compared": one.compared,
            "hits": [{"user": hit.user_id, "entry": hit.entry_id, "came_of_it": hit.came_of_it} for hit in one.hits],
        }
        for one in done
    ]
    if as_json:
        put_json({"book": there.book.name, "dry_run": dry_run, "lists": rows})
        return
    put_table(
        ["list", "version", "entries", "names compared", "new hits"],
        [[r["list"], r["version"], r["entries"], r["names_compared"], len(r["hits"])] for r in rows],
    )
    found = [[r["list"], hit["user"], hit["entry"], hit["came_of_it"]] for r in rows for hit in r["hits"]]
    if found:
        put_table(["list", "user", "entry", "came of it"], found)


def hits(
    who: Annotated[str | None, typer.Argument(metavar="[USER]", help="Only this account's.")] = None,
    cleared: Annotated[bool, typer.Option("--all", help="Also those that two people cleared.")] = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """List hits that nobody cleared, the last one first."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            user = accounts.find(connection, who).user_id if who is not None else None
            found = screening.find_hits(connection, user, open_only=not cleared)
        if as_json:
            put_json({"book": there.book.name, "hits": found})
        else:
            put_table(list(found[0]) if found else ["user_id"], [list(row.values()) for row in found])


def clear(
    who: Who,
    name: Annotated[str, typer.Argument(metavar="LIST", help="The list's name.")],
    entry: Annotated[str, typer.Argument(help="The entry's id there.")],
    by: By,
    second: Annotated[str, typer.Option(help="The second person.")],
    reason: Reason = "",
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Say that a hit is somebody else: two people do, and this version of the entry hits the user no more."""
    with errors(as_json=as_json):
        there = opened(book)
        with changing(there, dry_run=dry_run) as connection:
            user = accounts.find(connection, who)
            said = screening.clear(connection, user.user_id, name, entry, who=by, second=second, reason=reason)
        shown = {"account": user.account, "list": name, "entry": entry, "done": said, "dry_run": dry_run}
        put_done(there, shown, as_json=as_json)


def identify(
    file: Annotated[
        Path, typer.Argument(help="USER<TAB>name<TAB>NAME or USER<TAB>CHAIN<TAB>ADDRESS a line; - reads stdin.")
    ],
    by: By,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Record names and addresses of users, and screen them at once; the same again changes nothing."""
    with errors(as_json=as_json):
        there = opened(book)
        lines = _lines(file)
        with changing(there, dry_run=dry_run) as connection:
            for number, line in enumerate(lines, 1):
                _identify(connection, number, line, by)
        policy = there.policy_on(max(clock.now().date(), there.book.first_day))
        hits: int | None = None
        if policy.screening_lists and not dry_run:
            talk("recorded; now screening (what cannot be screened now, the next close or screen --all does)")
            with changing(there, dry_run=False) as connection:
                hits = sum(len(one.hits) for one in _everybody(connection, policy, clock.now()))
        put_done(there, {"recorded": len(lines), "by": by, "new_hits": hits, "dry_run": dry_run}, as_json=as_json)


def _lines(file: Path) -> list[str]:
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return [line for line in raw.decode("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start} is not UTF-8") from None


def _identify(connection: psycopg.Connection, number: int, line: str, by: str) -> None:
    """Record one line; an error names the line, never what it says."""
    fields = [field.strip() for field in line.split("\t")]
    rule = "USER<TAB>name<TAB>NAME or USER<TAB>CHAIN<TAB>ADDRESS; nothing was recorded"
    if len(fields) != 3 or not all(fields):
        raise InputError(f"line {number} has {len(fields)} fields", rule=rule)
    user = accounts.find(connection, fields[0]).user_id
    try:
        if fields[1] == "name":
            screening.record_identity(connection, user, fields[2], by)
        else:
            screening.record_address(connection, user, fields[1], fields[2], by)
    except psycopg.errors.CheckViolation as error:
        raise InputError(f"line {number} breaks {error.diag.constraint_name}", rule=rule) from None


def capture_list(
    name: Annotated[str, typer.Argument(help="As the policy names it.")],
    file: Annotated[Path, typer.Argument(help="The list as its publisher gives it.")],
    format_name: Annotated[
        str | None, typer.Option("--format", help="plain, sdn_xml or sdn_csv; default as the policy says.")
    ] = None,
    dry_run: DryRun = False,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Store a list as it is now, whole and readable; a close uses the one stored nearest its cut-off."""
    with errors(as_json=as_json):
        there = opened(book)
        wanted = there.policy_on(max(clock.now().date(), there.book.first_day)).screening_lists
        known = {ListSpec.parse(text).name: text for text in wanted}
        if format_name is None and name not in known:
            raise UsageError(
                f"the policy knows no list {name} (known: {', '.join(known) or 'none'})", next_step="give its --format"
            )
        spec = ListSpec.parse(known[name] if format_name is None else f"{name}:{format_name}")
        raw = ListFile(name, file).fetch()
        found = read_list(spec, raw)
        with (
            closing(connect(there.servers.collector.dsn(), autocommit=True)) as collector,
            typed_errors(),
            collector.transaction(force_rollback=dry_run),
        ):
            reading = screening.store_list(collector, name, raw, clock.now())
        shown = {
            "list": name,
            "version": found.version,
            "sha256": found.sha256,
            "entries": len(found.entries),
            "reading": reading.reading_id,
            "dry_run": dry_run,
        }
        put_done(there, shown, as_json=as_json)
