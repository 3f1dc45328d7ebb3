"""What a deposit means for an account's lifecycle: the first one makes it active, and some cannot be credited.

What belongs here: telling the database of both, inside settlement's transaction.
What does not: journals (see `engine.exchange.postings`) and the rules (functions of the database).
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from engine.exchange.events import Event, Transfer, TransferKind
from engine.exchange.state import Registry
from engine.store.postings import amount_text


def settle_deposits(connection: psycopg.Connection, events: Sequence[Event], registry: Registry) -> None:
    """Take notice of a batch's deposits.

    Args:
        connection: inside the transaction that moves the settlement cursor, after the journals were written.
        events: in sequence order, none of them settled before.
        registry: symbols and decimals.
    """
    came = [event for event in events if isinstance(event, Transfer) and event.kind in _DEPOSITS]
    credited = sorted({event.account for event in came if event.kind == TransferKind.DEPOSIT})
    if credited:
        connection.execute("SELECT accounts.first_deposits(%s::bigint[])", (credited,))
    unallocated = [event for event in came if event.kind == TransferKind.DEPOSIT_UNALLOCATED]
    if unallocated:
        assets = [registry.assets[event.asset] for event in unallocated]
        connection.execute(
            "SELECT accounts.note_unallocated(%s, %s::bigint[], %s, %s::numeric[], %s::bigint[])",
            (
                [event.reference for event in unallocated],
                [event.account for event in unallocated],
                [asset.symbol for asset in assets],
                [amount_text(e.units, asset.decimals) for e, asset in zip(unallocated, assets, strict=True)],
                [event.engine_seq for event in unallocated],
            ),
        )


_DEPOSITS = (TransferKind.DEPOSIT, TransferKind.DEPOSIT_UNALLOCATED)
