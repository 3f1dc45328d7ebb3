"""`compline reserves`: the log of manifests, attested addresses, the auditor's dump.

What belongs here: the commands. What does not: checking a log or a document (see `engine.reserves`).
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from engine import clock
from engine.clock import parse_close_date
from engine.errors import GateError, InputError, UsageError
from engine.gateways.evm_rpc import EvmRpc
from engine.money import text_of
from engine.reserves.attestation import Document, Method, parse_documents
from engine.reserves.fields import FormatError
from engine.reserves.key_file import parse_published_keys, published_keys_text
from engine.reserves.log_check import check_log
from engine.reserves.merkle import consistency_proof
from engine.reserves.rotation import KeysInForce, fingerprint_of, walk
from engine.store import attestations, days, log, rotations
from engine.store.connect import connect, typed_errors
from pipelines.cli import proofs
from pipelines.cli.options import BookName, DryRun, Json, opened
from pipelines.cli.output import errors, put_json, put_table, talk
from pipelines.key_store import load_keys

app = typer.Typer(help="Proof of reserves: the log, attested addresses, dumps.", no_args_is_help=True)
proofs.register(app)

_LONGEST = 1 << 22


@app.callback()
def _reserves() -> None:
    """Proof of reserves: the log, attested addresses, dumps."""


def read_small(path: Path) -> bytes:
    """A file that a person names, of a few megabytes at most.

    Raises:
        InputError: it is not there, or larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", next_step="name a file that is there") from None
    if len(data) > _LONGEST:
        raise InputError(f"{path} is larger than {_LONGEST} bytes", rule="attestations, keys and checkpoints are small")
    return data


def _text(path: Path) -> str:
    try:
        return read_small(path).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text", rule="UTF-8") from None


@app.command("log")
def show_log(
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A checkpoint that you kept; may be given several times.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The first published key file, from elsewhere; else this machine's keys."),
    ] = None,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Show the log and check it whole: roots, signatures, checkpoints, key rotations, checkpoints that you kept."""
    with errors(as_json=as_json):
        there = opened(book)
        kept = [_text(path) for path in checkpoint or []]
        exchange = there.book.exchange
        first = _text(key) if key else None
        with closing(connect(there.url)) as connection, typed_errors(), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            rows, changes = log.rows(connection), rotations.read(connection)
            root = log.ManifestLog(connection).get_root().hex() if rows else None
        keys = _keys(
            changes, exchange, first, lambda: published_keys_text(load_keys(there.settings, there.card), exchange)
        )
        report = check_log(rows, keys, kept)
        if report.lines and not report.problems and root != report.lines[-1].root:
            report.problems.append("the root of the table's own tree is another one")
        _put_log(report.lines, report.problems, keys, len(kept), as_json)
        if report.problems:
            raise typer.Exit(1)


def _keys(changes: list[Any], exchange: str, first: str | None, ours: Any) -> list[KeysInForce]:
    chain = walk(changes, exchange, first if first is not None else (None if changes else ours()))
    parse_published_keys(chain[0].text)
    if first is not None and chain[0].text != first:
        raise GateError(
            "the rotations of this log do not begin at the given keys",
            rule="they lead back to the first published keys",
            next_step="give the first published key file, not a later one",
        )
    return chain


def _put_log(lines: list[Any], problems: list[str], keys: list[KeysInForce], kept: int, as_json: bool) -> None:
    if as_json:
        put_json(
            {
                "entries": [vars(line) for line in lines],
                "keys": [{"since": one.since, "fingerprint": fingerprint_of(one.text)} for one in keys],
                "checkpoints_compared": kept,
                "problems": problems,
            }
        )
        return
    put_table(
        ["entry", "date", "version", "supersedes", "key", "root"],
        [[line.index, line.close_date, line.version, line.supersedes, line.key_id, line.root] for line in lines],
    )
    for one in keys:
        talk(f"keys {fingerprint_of(one.text)[:16]} sign from entry {one.since} on")
    for problem in problems:
        talk(f"does not hold: {problem}")
    if not problems:
        talk(f"{len(lines)} entries hold; {kept or 'no'} kept checkpoints compared")
        if not kept:
            talk("a log rewritten as a whole shows only beside a checkpoint that somebody kept: --checkpoint FILE")


@app.command()
def consistency(
    earlier: Annotated[int, typer.Argument(metavar="SIZE1", help="Entries of the earlier checkpoint.")],
    later: Annotated[
        int | None, typer.Argument(metavar="SIZE2", help="Entries of the later one; default the whole log.")
    ] = None,
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Print the proof that the log only grew between two checkpoints (RFC 9162), as the verifier reads it."""
    with errors(as_json=as_json):
        there = opened(book)
        with closing(connect(there.url)) as connection, typed_errors():
            hashes = log.ManifestLog(connection).leaf_hashes()
        size2 = len(hashes) if later is None else later
        if not 0 < earlier <= size2 <= len(hashes):
            raise InputError(
                f"no proof from {earlier} to {size2} entries: the log has {len(hashes)}",
                rule="the earlier size is at least 1 and not above the later",
                next_step="a checkpoint's second line is its size: compline reserves log",
            )
        proof = [one.hex() for one in consistency_proof(hashes[:size2], earlier)]
        put_json({"hashes": proof, "size1": earlier, "size2": size2})


@app.command()
def attest(
    file: Annotated[Path, typer.Argument(help="JSON: one document or a list (balances, ownership, statements).")],
    rpc: Annotated[
        str | None, typer.Option("--rpc", help="JSON-RPC node that a contract's answer (EIP-1271) is asked of.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="Instant that ownership proofs are of; default now.")] = None,
    book: BookName = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Capture attestations: what lies on an address, who proved to control it, what a custodian states."""
    with errors(as_json=as_json):
        there = opened(book)
        documents = parse_documents(_asked(read_small(file), rpc), where=str(file))
        captured = _instant(at) if at else clock.now()
        result = []
        for document in documents:
            if document.fields["exchange"] != there.book.exchange:
                raise FormatError(
                    f"{file}: a document of exchange {document.fields['exchange']}", rule="this book's own"
                )
        with closing(connect(there.servers.collector.dsn())) as connection, typed_errors(), connection.transaction():
            for document in documents:
                when = _instant(document.at) if document.at else captured
                if not dry_run:
                    _store(connection, document, when)
                result.append({"subject": document.subject, "at": f"{when:%Y-%m-%dT%H:%M:%SZ}"})
        if as_json:
            put_json({"book": there.book.name, "captured": [] if dry_run else result})
        else:
            put_table(["subject", "at"], [[one["subject"], one["at"]] for one in result])
            talk("nothing was captured (--dry-run)" if dry_run else "captured; the next close of the date judges them")


def _store(connection: psycopg.Connection, document: Document, when: datetime) -> None:
    if attestations.put_document(connection, document, when):
        return
    if attestations.stored_document(connection, document, when) != document.to_bytes():
        raise GateError(
            f"another document of {document.subject} at {when:%Y-%m-%d %H:%M:%S} is there",
            rule="what was captured is never replaced",
            next_step="state another instant",
        )


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no instant", rule="such as 2026-03-02T23:59:00Z") from None
    if found.tzinfo is None:
        raise UsageError(f"{text!r} has no zone", rule="such as 2026-03-02T23:59:00Z")
    return found


def _asked(data: bytes, rpc: str | None) -> bytes:
    """Documents with a node's answers where they leave room: a contract's `answer`, the `amount` of an own coin."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            continue
        contract = one.get("method") == Method.EIP1271 and one.get("answer") is None
        balance = one.get("v") == "por-balance/1" and one.get("amount", "") is None
        if (contract or balance) and rpc is None:
            raise UsageError("a document leaves its answer to a node", next_step="name a node: --rpc URL")
        if contract:
            parts = [str(one.get(name, "")) for name in ("address", "exchange", "checkpoint", "signature")]
            one["answer"] = EvmRpc(str(rpc)).ask_contract(*parts)
        elif balance:
            node = EvmRpc(str(rpc))
            block = node.finalised()
            units = node.balance(str(one.get("address", "")), block)
            one |= {"amount": str(units), "height": block.height, "block_hash": block.block_hash}
            one["at"] = one.get("at") or clock.iso_s(clock.now())
    return json.dumps(value).encode()


@app.command()
def attested(
    date: Annotated[str, typer.Argument(help="Close date.")], book: BookName = None, as_json: Json = False
) -> None:
    """Show attested addresses of a date, what does not count and why, and reserves beside liabilities."""
    with errors(as_json=as_json):
        there = opened(book)
        day = parse_close_date(date)
        with closing(connect(there.url)) as connection, typed_errors():
            found = days.read(connection, day)
            if found is None:
                raise InputError(f"{day} is not open in book {there.book.name}", next_step="compline close status")
            entries = sorted(attestations.entries(connection, day, found.version), key=lambda one: one.sort_key)
            why = {row[:3]: row[3] for row in attestations.uncounted(connection, day, found.version)}
            covered = attestations.coverage(connection, day, found.version)
        if as_json:
            put_json(
                {
                    "addresses": [{**one.as_dict(), "not_counted": why.get(one.sort_key)} for one in entries],
                    "coverage": [
                        {"asset": c.asset, "liabilities": text_of(c.liabilities), "reserves": text_of(c.reserves)}
                        for c in covered
                    ],
                }
            )
            return
        put_table(
            ["asset", "chain", "address", "smallest units", "height", "ownership"],
            [[one.asset, one.chain, one.address, one.amount, one.height, one.ownership] for one in entries],
        )
        put_table(
            ["asset", "liabilities", "reserves"],
            [[c.asset, text_of(c.liabilities), text_of(c.reserves)] for c in covered],
        )


@app.command()
def dump(
    date: Annotated[str, typer.Argument(help="Close date, sealed.")],
    asset: Annotated[str, typer.Argument(help="Which tree.")],
    book: BookName = None,
    as_json: Json = False,
) -> None:
    """Write the auditor's dump of a tree to stdout: the entry, then digest and amount of every leaf (confidential)."""
    from pipelines.evidence import sealed_trees

    with errors(as_json=as_json):
        there = opened(book)
        trees = sealed_trees(there, parse_close_date(date))
        if asset not in trees:
            raise InputError(f"{date} has no tree of {asset}", next_step=f"one of {', '.join(sorted(trees))}")
        if as_json:
            put_json(trees[asset].entry.as_dict())
            return
        for lines in trees[asset].dump_lines():
            sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()
