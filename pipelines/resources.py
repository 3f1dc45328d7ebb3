"""Resources of a run: the `close` session, which opens the book and holds the lease while the run works.

What belongs here: what definitions get at run time. What does not: the definitions (see `assets`, `checks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Protocol

import dagster as dg
import psycopg

from assets.closing import RECAPTURE_TAG
from engine import clock
from engine.clock import parse_close_date
from engine.steps.context import StepContext
from engine.store.connect import connect
from engine.store.leases import CloseLease
from pipelines.books import OpenBook, open_book
from pipelines.key_store import load_keys
from pipelines.settings import Settings


class HasPartition(Protocol):
    """What a session asks of Dagster's contexts."""

    partition_key: str


@dataclass
class CloseSession:
    """One run's hold on a book: its context, and the lease of each date that it closes.

    Attributes:
        settings: of this process.
        book_name: which book.
        run_id: of the Dagster run; the holder of the leases.
        recapture: read captures again.
    """

    settings: Settings
    book_name: str
    run_id: str
    recapture: bool = False
    _leases: dict[date, CloseLease] = field(default_factory=dict)

    @cached_property
    def opened(self) -> OpenBook:
        """The book, opened on first use."""
        return open_book(self.settings, self.book_name, talk=lambda line: None)

    @property
    def url(self) -> str:
        """The book's database, as the application; secret."""
        return self.opened.url

    def sqlalchemy_url(self) -> str:
        """The same for SQLAlchemy; secret."""
        return self.opened.servers.app.sqlalchemy("psycopg")

    def connect(self) -> psycopg.Connection:
        """A connection as the application."""
        return connect(self.url)

    def context_for(self, context: HasPartition) -> StepContext:
        """The step context of a partition, taking the date's lease the first time."""
        return self.context_of(parse_close_date(context.partition_key))

    def context_of(self, day: date) -> StepContext:
        """The step context of a close date, taking its lease the first time."""
        opened = self.opened
        policy = opened.policy_on(max(day, opened.book.first_day))
        lease = self._leases.get(day)
        if lease is None:
            lease = CloseLease(self.url, day, self.run_id, policy.lease_ttl_s)
            lease.take()
            self._leases[day] = lease
        return StepContext(
            url=self.url,
            close_date=day,
            run_id=self.run_id,
            epoch=lease.epoch,
            book=opened.book,
            policy=policy,
            journal_dir=opened.files.journal_dir,
            evidence_dir=opened.files.evidence_dir,
            load_keys=lambda: load_keys(self.settings, opened.card),
            now=clock.now(),
            recapture=self.recapture,
            tree_kernel=self.settings.tree_kernel,
        )

    def release(self) -> None:
        """Give every lease back."""
        while self._leases:
            self._leases.popitem()[1].release()


@dataclass(frozen=True)
class FinanceDatabase:
    """Where dbt works: its own login on the book's database.

    Attributes:
        password: secret, not in the repr.
        home: where the prepared manifest is kept.
        options: further connection parameters, such as sslmode.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    home: Path
    options: tuple[tuple[str, str], ...] = ()


def close_resource(settings: Settings, book: str) -> dg.ResourceDefinition:
    """The `close` resource of a code location."""

    @dg.resource(description="The book, and the lease on the date that the run closes.")
    def close(context: dg.InitResourceContext) -> Iterator[CloseSession]:
        tags = context.run.tags if context.run else {}
        session = CloseSession(settings, book, context.run_id or "no-run", tags.get(RECAPTURE_TAG) == "true")
        try:
            yield session
        finally:
            session.release()

    return close


def finance_resource(settings: Settings, book: str) -> dg.ResourceDefinition:
    """The `finance_db` resource of a code location."""

    @dg.resource(description="dbt's login on the book's database.")
    def finance_db(context: dg.InitResourceContext) -> FinanceDatabase:
        dbt = open_book(settings, book, talk=lambda line: None).servers.dbt
        return FinanceDatabase(
            dbt.host, int(dbt.port), dbt.user, dbt.password, dbt.database, settings.home, dbt.options
        )

    return finance_db
