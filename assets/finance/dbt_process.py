"""dbt inside this process: the lock, its environment, its scratch folder, and the arguments of every invocation.

What belongs here: what keeps two invocations, and dbt and the rest of the process, out of each other's way.
What does not: what is invoked (see `manifest`, `invoke`).

dbt imports every module on the path that is named `dbt_...`: nothing of ours may be called so at the top level.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from assets.finance.project import PROJECT_DIR

PREFIX = "COMPLINE_DBT_"
LOCK = threading.RLock()
"""dbt keeps flags, adapters and its invocation in globals: one at a time in a process."""


def base_arguments(work: Path) -> list[str]:
    """What every invocation is told: its folders, and to write and say nothing."""
    return [
        *("--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR)),
        *("--target-path", str(work), "--log-path", str(work)),
        *("--no-write-json", "--log-level", "none", "--log-level-file", "none"),
        *("--no-use-colors", "--no-send-anonymous-usage-stats", "--no-version-check"),
    ]


@contextmanager
def dbt_environment(options: Iterable[tuple[str, str]] = (), **values: str) -> Iterator[None]:
    """Set what `profiles.yml` and libpq read for the length of one invocation, under the lock.

    Args:
        options: connection parameters by libpq's names, none for parsing; dbt's profile has no place for all of
            them, libpq's variables have.
        values: by lower-case name: host, port, user, password, dbname, application.
    """
    names = {PREFIX + name.upper(): value for name, value in values.items()}
    names |= {f"PG{name.upper()}": value for name, value in options if name.startswith("ssl")}
    with LOCK, _logging_as_it_was():
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Undo what dbt and its tracker do to the root logger: it would print other libraries' lines from then on."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A scratch folder of this invocation's own; those of processes that were killed go with it."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("run-*"):
        pid = left.name.split("-")[1]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    work = parent / f"run-{os.getpid()}-{threading.get_ident()}"
    work.mkdir(exist_ok=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
