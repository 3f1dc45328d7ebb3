"""Fixtures of every test: real servers in a home of the session's own, and what is left out unless asked for.

What belongs here: servers, markers. What does not: fixtures of one subject: those go to `tests/fixtures/<subject>.py`,
each of which is loaded as a plugin.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.garbage import look_seldom
from pipelines.local.postgres import ensure_postgres, stop_postgres
from pipelines.local.servers import purge
from pipelines.local.urls import Servers
from pipelines.settings import Settings, load_settings
from tests.fixtures.places import choose, copy_home, new_folder, sweep

if TYPE_CHECKING:
    from tests.fixtures.books import Plant

pytest_plugins = [
    f"tests.fixtures.{path.stem}"
    for path in sorted((Path(__file__).parent / "fixtures").glob("*.py"))
    if path.stem not in ("__init__", "places")
]

ON_REQUEST = ("faults", "bench")
LONGEST = (
    "test_gate_paths",
    "test_kill_demo",
    "test_finance_marts",
    "test_finance_step",
    "test_exchange_service",
    "test_exchange_operations",
    "test_cli_refusals",
    "test_tape_prints",
    "test_tapes_close",
    "test_local_postgres",
    "test_admin_service",
    "test_killed_closers",
    "test_leases",
    "test_local_roles",
    "test_flash1",
    "test_pnl_steps",
    "test_exchange_replay",
    "test_gates_bite",
    "test_verify_page",
)
"""Files that take longest, in that order: begun last, one would run on while the other processes stand idle."""
CHROMIUM = Path("/usr/bin/chromium")
QUIET = {
    "DO_NOT_TRACK": "1",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "GX_ANALYTICS_ENABLED": "false",
}


def pytest_configure(config: pytest.Config) -> None:
    os.environ.update(QUIET)
    choose(config)
    # It starts a hundred processes, and pytest rewrites its files in two: each would compile them all anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # pytest collects garbage five times at its end, before the process ends.
    look_seldom()
    config.add_cleanup(gc.freeze)


@pytest.hookimpl(optionalhook=True)
def pytest_bdd_apply_tag(tag: str, function: object) -> bool:
    """Leave the tags of outside feature files alone: as markers they would have to be declared."""
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless `-m` names it."""
    asked = str(config.option.markexpr)
    left_out = [marker for marker in ON_REQUEST if marker not in asked]
    dropped = [item for item in items if any(item.get_closest_marker(marker) for marker in left_out)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        left = set(dropped)
        items[:] = [item for item in items if item not in left]
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") and not CHROMIUM.exists():
        reason = f"{CHROMIUM} is missing (Debian: apt-get install chromium)"
        if os.environ.get("COMPLINE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def new_home() -> Iterator[Callable[[], Path]]:
    """Makes homes for tests that start, break and stop servers of their own; all are purged."""
    made: list[Path] = []

    def make() -> Path:
        made.append(new_folder() / "home")
        return made[-1]

    yield make
    for home in made:
        purge(home)
        shutil.rmtree(home.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def created() -> Iterator[Path]:
    """A home with a Postgres that was created and stopped; tests copy it."""
    folder = new_folder()
    ensure_postgres(folder / "home", talk=lambda line: None)
    stop_postgres(folder / "home")
    yield folder / "home"
    purge(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def old_home(new_home: Callable[[], Path], created: Path) -> Callable[[], Path]:
    """As `new_home`, for tests of what comes after the creation, which is most of the first start."""

    def make() -> Path:
        home = new_home()
        copy_home(created, home)
        return home

    return make


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """The session's home, which subprocesses find too: COMPLINE_HOME names it."""
    sweep()
    folder = new_folder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPLINE_HOME", str(folder / "home"))
        yield folder / "home"
    purge(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def settings(home: Path) -> Settings:
    """The settings of the session: its home, and real servers where the environment names some."""
    return load_settings(home=home)


@pytest.fixture(scope="session")
def servers(settings: Settings, plant: Plant) -> Servers:
    """Running servers with every role, and the default book's empty database: nothing is migrated."""
    return plant(settings)
