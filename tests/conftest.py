"""Fixtures of every test: real servers in a home of the session's own, and what is left out unless asked for.

What belongs here: servers, markers. What does not: fixtures of one subject: those go to `tests/fixtures/<subject>.py`,
each of which is loaded as a plugin.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.local.servers import ensure_servers, purge
from pipelines.local.urls import Servers
from pipelines.settings import Settings, load_settings
from tests.fixtures.places import choose, forget_power_loss, new_folder, sweep

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
def servers(settings: Settings) -> Servers:
    """Running servers with every role, and the default book's empty database: nothing is migrated."""
    running = ensure_servers(settings, talk=lambda line: None)
    if settings.embedded_postgres:
        forget_power_loss(settings.home)
    return running
