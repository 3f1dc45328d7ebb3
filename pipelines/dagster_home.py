"""Dagster's home: its instance file and its workspace, written from the settings.

What belongs here: `<home>/dagster/` and the environment that Dagster's processes need.
What does not: definitions (see `definitions`).
"""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.books import known_books
from pipelines.local.urls import Servers
from pipelines.settings import DEFAULT_BOOK, Settings, repo_root

URL_VARIABLE = "COMPLINE_DAGSTER_URL"
_INSTANCE = f"""\
# Written by Compline; changes are overwritten.
storage:
  custom:
    module: pipelines.storage
    class: PooledPostgresStorage
    config:
      postgres_url:
        env: {URL_VARIABLE}
concurrency:
  pools:
    granularity: run
    default_limit: 1
run_retries:
  enabled: false
telemetry:
  enabled: false
nux:
  enabled: false
"""
QUIET = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
}


def prepare(settings: Settings, servers: Servers) -> Path:
    """Write Dagster's home and point this process and its children at it.

    Args:
        settings: of this process.
        servers: running.

    Returns:
        Its folder.
    """
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "dagster.yaml", _INSTANCE)
    os.environ.update(QUIET)
    os.environ["DAGSTER_HOME"] = str(folder)
    os.environ[URL_VARIABLE] = servers.dagster.sqlalchemy("psycopg2")
    os.environ["COMPLINE_HOME"] = str(settings.home)
    return folder


def write_workspace(settings: Settings, folder: Path) -> Path:
    """One code location for every book on this machine.

    Returns:
        The workspace file.
    """
    names = known_books(settings.home) or [DEFAULT_BOOK]
    lines = ["# Written by Compline; changes are overwritten.", "load_from:"]
    for name in names:
        lines += [
            "  - python_module:",
            "      module_name: pipelines.definitions",
            f"      attribute: book_{name}",
            f"      location_name: {name}",
            f"      working_directory: {repo_root()}",
        ]
    path = folder / "workspace.yaml"
    _write(path, "\n".join(lines) + "\n")
    return path


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
