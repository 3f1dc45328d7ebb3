"""Dagster's storage on Postgres, with a pool: the stock one connects anew for every event.

What belongs here: that one subclass. It uses a method of each storage that is not documented; a test keeps it honest.
"""

from __future__ import annotations

from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage


class PooledPostgresStorage(DagsterPostgresStorage):
    """Run, event-log and schedule storage over pooled connections."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: dict[str, Any]
    ) -> PooledPostgresStorage:
        """Build the storages and give each its pool."""
        storage = super().from_config_value(inst_data, config_value)
        for part in (storage.event_log_storage, storage.run_storage, storage.schedule_storage):
            part.optimize_for_webserver(statement_timeout=60_000, pool_recycle=600, max_overflow=20)
        return storage
