"""The prepared manifest: the dbt project parsed once, kept below the home, and given to each run for its database.

What belongs here: parsing, caching, and putting a book's database in.
What does not: running models (see `invoke`).

Parsing takes seconds and any change of `--vars` repeats it; a manifest from the cache takes 20 ms.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.finance.dbt_process import base_arguments, dbt_environment, work_folder
from assets.finance.project import project_digest
from engine.errors import ConfigError

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

PLACEHOLDER = "compline_placeholder_database"
UNUSED = ("files", "flat_graph")
"""Parts that only partial parsing and dbt's own logs read; half of the bytes."""


def cache_folder(home: Path) -> Path:
    """Where manifests and dbt's scratch files lie, below the home."""
    return home / "dbt"


def manifest_file(home: Path) -> Path:
    """The prepared manifest of this version of the project."""
    return cache_folder(home) / f"manifest-{project_digest()}.json"


def prepare(home: Path) -> Path:
    """Parse the project if this version of it is not in the cache yet; safe in several processes at once.

    Raises:
        ConfigError: dbt cannot parse the project.
    """
    path = manifest_file(home)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _parse(cache_folder(home))
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def for_database(home: Path, database: str) -> Manifest:
    """A manifest of its own for one run: dbt writes into the one that it is given.

    Args:
        home: the home.
        database: the book's.

    Raises:
        ConfigError: dbt cannot parse the project, or the name cannot be quoted.
    """
    if set(database) & set('"\\'):
        raise ConfigError(f"database name {database!r} holds a quote or a backslash", next_step="rename the database")
    plain = json.loads(_text(prepare(home)).replace(PLACEHOLDER, database))
    with dbt_environment():
        from dbt.contracts.graph.manifest import Manifest

        return Manifest.from_dict(plain)


def as_dict(home: Path) -> dict[str, Any]:
    """The prepared manifest as plain data, with the placeholder in it."""
    loaded: dict[str, Any] = json.loads(_text(prepare(home)))
    return loaded


@lru_cache(maxsize=2)
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _parse(folder: Path) -> str:
    nowhere = {"host": "localhost", "port": "5432", "user": "nobody", "password": "none", "dbname": PLACEHOLDER}
    with work_folder(folder) as work, dbt_environment(**nowhere):
        from dbt.cli.main import dbtRunner

        done = dbtRunner().invoke(["parse", "--no-partial-parse", *base_arguments(work)])
    if not done.success or done.result is None:
        raise ConfigError(
            f"dbt cannot parse the project: {' '.join(str(done.exception).split())}",
            next_step="correct the file that it names in dbt/",
        )
    plain = {name: {} if name in UNUSED else value for name, value in done.result.to_dict().items()}
    return json.dumps(plain, default=str)
