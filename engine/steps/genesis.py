"""Genesis: day zero, the opening balances, sealed apart before the first day is cut off.

What belongs here: closing and sealing the day before the first day.
What does not: where opening balances come from (commands in the engine's journal before its first cut-off),
and their lots and volumes (see `engine.store.openings`).
"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

from engine.canonical import jcs
from engine.clock import CloseDate, from_us
from engine.exchange import history
from engine.reserves.signing import key_id, verify_ed25519
from engine.steps.context import StepContext
from engine.steps.settling import settle
from engine.store import days, moves, openings, seals
from engine.store.connect import Connection, connect
from engine.store.leases import CloseLease

SIGNATURE_PREFIX = b"por/1/genesis\x00"


def ensure_sealed(connection: Connection, context: StepContext) -> None:
    """Seal day zero where the book's first day is about to be cut off and it has not been.

    Args:
        connection: as the application role, outside a transaction.
        context: of the first day's close.
    """
    zero = context.book.first_day - timedelta(days=1)
    day = days.read(connection, zero)
    connection.rollback()
    if context.close_date != context.book.first_day or (day is not None and day.state == "sealed"):
        return
    cut = history.cut_off_of(context.journal_dir, zero)
    settle(connection, context.journal_dir, cut.seq)
    with (
        CloseLease(context.url, zero, context.run_id, context.policy.lease_ttl_s) as lease,
        closing(connect(context.url, limit_s=context.policy.step_timeout_s)) as own,
        own.transaction(),
    ):
        moves.cut_off(own, zero, lease.epoch, cut.seq, from_us(cut.ts_us))
        moves.fix_books(own, zero, lease.epoch)
        seals.insert(own, _seal(own, context, zero))
        moves.fence(own, zero, lease.epoch)


def _seal(connection: Connection, context: StepContext, zero: CloseDate) -> seals.Seal:
    day = days.read(connection, zero)
    assert day is not None
    assert day.books_sha256 is not None
    loaded = openings.sha256(connection)
    record = {
        "v": "genesis/1" if loaded is None else "genesis/2",
        **({} if loaded is None else {"openings_sha256": loaded}),
        "exchange": context.book.exchange,
        "close_date": str(zero),
        "version": day.version,
        "barrier_seq": day.barrier_seq,
        "books_sha256": day.books_sha256,
        "policy_sha256": day.policy_sha256,
    }
    data = jcs(record)
    signer = context.load_keys().manifest_signer()
    signature = signer.sign_manifest_message(SIGNATURE_PREFIX + data)
    verify_ed25519(signer.public_key, signature, SIGNATURE_PREFIX + data, where="genesis, after signing")
    return seals.Seal(
        close_date=zero,
        version=day.version,
        kind="genesis",
        books_sha256=day.books_sha256,
        manifest=data.decode("utf-8"),
        signature=signature.hex(),
        key_id=key_id(signer.public_key),
        snapshot_root=None,
        log_index=None,
        checkpoint=None,
    )
