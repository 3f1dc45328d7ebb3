"""The assembly: one code location a book.

What belongs here: `build_defs`, and module attributes `book_<name>` that a workspace names.
What does not: any work at import: a book's card is read when its attribute is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.finance.dbt_assets import build_dbt_assets
from assets.graph import build_assets
from checks.build import build_checks
from engine.errors import ConfigError
from pipelines.books import BookFiles, read_card
from pipelines.garbage import look_seldom
from pipelines.jobs import close_job, close_schedule
from pipelines.partitions import partitions_of
from pipelines.resources import close_resource, finance_resource
from pipelines.sensors import build_sensors
from pipelines.settings import Settings, load_settings

PREFIX = "book_"


def build_defs(
    book: str, *, settings: Settings | None = None, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Everything that closes a book.

    Args:
        book: its name; the book has been created on this machine.
        settings: by default from the environment.
        resource_overrides: put in the place of resources of the same name.

    Raises:
        ConfigError: there is no such book here.
    """
    look_seldom()
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    chosen = settings or load_settings()
    card = read_card(BookFiles(chosen.home, book))
    if card is None:
        raise ConfigError(f"there is no book {book} below {chosen.home}", next_step="compline demo")
    rule = card.policy.cutoff_rule
    partitions = partitions_of(card.book.first_day, rule)
    job = close_job()
    return dg.Definitions(
        assets=[*build_assets(partitions), *build_dbt_assets(partitions)],
        asset_checks=build_checks(partitions),
        jobs=[job],
        schedules=[close_schedule(job, rule)],
        sensors=build_sensors(chosen, book),
        resources={
            "close": close_resource(chosen, book),
            "finance_db": finance_resource(chosen, book),
            **(resource_overrides or {}),
        },
        executor=dg.in_process_executor,
    )


def __getattr__(name: str) -> dg.Definitions:
    """`book_demo` and the like: the code location of a book, built when Dagster asks for it."""
    if not name.startswith(PREFIX):
        raise AttributeError(name)
    return build_defs(name.removeprefix(PREFIX))
