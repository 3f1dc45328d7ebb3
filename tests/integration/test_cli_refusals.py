"""Bad input at the command line: an exit code, a name, a next step, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.exchange.live import is_live
from pipelines.books import BookFiles, write_card
from pipelines.local.servers import purge
from pipelines.local.urls import Servers
from pipelines.settings import Settings
from tests.fixtures.books import BookUnderTest
from tests.fixtures.command_line import call

COMPLINE = str(Path(sys.executable).with_name("compline"))
FIRST_ID = 100


def program(home: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    """The installed program, in a process of its own: exit code, JSON and talk."""
    done = subprocess.run(
        [COMPLINE, *arguments, "--json"],
        env={**os.environ, "COMPLINE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr


def tape(path: Path, **changes: Callable[[list[Any]], list[Any]]) -> Path:
    """A small tape in the layout of Binance's trades, with columns changed."""
    count = 20
    columns: dict[str, list[Any]] = {
        "market": ["spot"] * count,
        "symbol": ["BTCUSDT"] * count,
        "trade_id": list(range(FIRST_ID, FIRST_ID + count)),
        "ts_ms": [1_723_161_600_000 - 10_000 + 1000 * n for n in range(count)],
        "event_ms": [1_723_161_600_000] * count,
        "price": ["61685.99"] * count,
        "qty": ["0.00100000"] * count,
        "buyer_is_maker": [n % 2 == 0 for n in range(count)],
        "local_ns": [0] * count,
    }
    for name, change in changes.items():
        columns[name] = change(columns[name])
    pq.write_table(pa.table(columns), path)
    return path


def with_one(value: Any) -> Callable[[list[Any]], list[Any]]:
    """The column with its eleventh value replaced."""
    return lambda values: [*values[:10], value, *values[11:]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trade_id": with_one(FIRST_ID + 500)}, "gap"),
        ({"trade_id": with_one(FIRST_ID + 9)}, str(FIRST_ID + 9)),
        ({"price": with_one("0")}, "price"),
        ({"price": with_one("61685.995")}, "61685.995"),
        ({"qty": with_one("0.000001")}, "0.000001"),
        ({"symbol": with_one("DOGEXYZ")}, "DOGEXYZ"),
    ],
    ids=["gap", "duplicate", "zero price", "off the tick", "off the lot", "unknown symbol"],
)
def test_a_bad_tape_is_refused_by_row_and_nothing_is_made(
    tmp_path: Path, settings: Settings, servers: Servers, changes: dict[str, Any], said: str
) -> None:
    file = tape(tmp_path / "tape.parquet", **changes)
    code, error, _ = call(
        settings.home, "exchange", "import-tape", str(file), "--format", "binance-trades", "--book", "badtape"
    )
    assert code == 65
    assert said in error["what"] + error["rule"]
    assert "row" in error["what"] or "row" in error["rule"]
    assert not (settings.home / "books" / "badtape").exists()


def test_a_truncated_parquet_is_refused_by_name(tmp_path: Path, settings: Settings, servers: Servers) -> None:
    file = tape(tmp_path / "tape.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    code, error, _ = call(
        settings.home, "exchange", "import-tape", str(file), "--format", "binance-trades", "--book", "badtape"
    )
    assert code == 65
    assert "tape.parquet" in error["what"]


def test_a_good_tape_imports_and_again_changes_nothing(
    tmp_path: Path, settings: Settings, servers: Servers, request: pytest.FixtureRequest
) -> None:
    from tests.fixtures.books import drop_database

    name = f"tape{os.getpid()}"
    request.addfinalizer(lambda: drop_database(servers, name))
    file = tape(tmp_path / "tape.parquet")
    command = ("exchange", "import-tape", str(file), "--format", "binance-trades", "--book", name)
    keys = {} if settings.embedded_postgres else {"COMPLINE_KEYS": _keys()}
    code, said, talk = call(settings.home, *command, **keys)
    assert code == 0, talk
    assert said["trades_by_day"] == {"2024-08-08": 10, "2024-08-09": 10}
    code, said, talk = call(settings.home, *command, **keys)
    assert (code, said["imported"], said["settled_trades"]) == (0, 0, 0)
    assert "nothing to do" in talk or said["already_there"] == 20


def _keys() -> str:
    from engine.reserves.key_file import keys_text
    from engine.reserves.keys import generate_keys

    return keys_text(generate_keys())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("close", "run", "2999-01-01"), 64),
        (("close", "run", "1999-01-01"), 64),
        (("close", "run", "yesterday"), 65),
        (("close", "backfill", "2026-03-03", "2026-03-02"), 64),
        (("close", "run"), 64),
        (("close", "dance"), 64),
        (("ledger", "balance", "nobody"), 65),
        (("ledger", "trial-balance", "2026-03-04"), 64),
    ],
)
def test_wrong_usage_is_64_or_more_and_names_the_thing(
    sealed_book: BookUnderTest, arguments: tuple[str, ...], code: int
) -> None:
    name = sealed_book.opened.book.name
    got, error, talk = call(sealed_book.opened.settings.home, *arguments, COMPLINE_BOOK=name)
    assert got == code
    assert error.get("what") or talk


def test_book_whose_days_lie_in_the_past_is_served_only_after_saying_what_that_cuts_off(
    sealed_book: BookUnderTest,
) -> None:
    name = sealed_book.opened.book.name
    first = sealed_book.days[-1] + timedelta(days=1)
    code, said, talk = call(sealed_book.opened.settings.home, "exchange", "serve", "--dry-run", "--book", name)
    assert (code, said["dry_run"]) == (0, True)
    assert said["would"].startswith(f"would serve book {name}")
    assert f"book {name} was never served, and its open date {first} lies in the past" in talk
    assert talk.index("journalled at once") < talk.index("would serve")
    assert not is_live(sealed_book.opened.files.journal_dir)


def test_an_unknown_book_and_a_bad_name_are_refused(settings: Settings, servers: Servers) -> None:
    code, error, _ = program(settings.home, "close", "status", "--book", "nosuchbook")
    assert code == 78
    assert "nosuchbook" in error["what"]
    code, error, _ = program(settings.home, "close", "status", "--book", "No Such")
    assert code == 78


def test_a_database_one_migration_behind_is_refused_until_up(book: BookUnderTest) -> None:
    name, home = book.opened.book.name, book.opened.settings.home
    with book.admin() as connection:
        connection.execute("UPDATE public.alembic_version SET version_num = '0000'")
    code, error, _ = call(home, "close", "run", str(book.days[0]), "--book", name)
    assert code == 78
    assert "0000" in error["what"]
    assert "compline up" in error["next_step"]


def test_a_database_that_is_down_is_unknown_not_passed(
    sealed_book: BookUnderTest, settings: Settings, tmp_path: Path
) -> None:
    name = sealed_book.opened.book.name
    write_card(BookFiles(tmp_path, name), sealed_book.opened.card)
    nowhere = {f"DATABASE_{who}URL": f"postgresql://compline_{who}x:x@127.0.0.1:9/compline" for who in ("", "ADMIN_")}
    try:
        code, error, _ = call(tmp_path, "close", "run", "2026-03-02", "--book", name, **nowhere)
    finally:
        purge(tmp_path)
    assert code == 2, error
    assert "cannot be reached" in error["what"] or "does not answer" in error["what"]


def test_keys_derived_from_a_seed_are_refused_beside_a_real_database(tmp_path: Path) -> None:
    real = "postgresql://compline_app:x@127.0.0.1:9/compline"
    code, error, _ = call(tmp_path, "demo", DATABASE_URL=real, DATABASE_ADMIN_URL=real)
    assert code == 78
    assert "compline keys init" in error["next_step"]
    code, said, _ = call(tmp_path, "keys", "init", DATABASE_URL=real, DATABASE_ADMIN_URL=real)
    assert code == 0
    assert Path(said["file"]).stat().st_mode & 0o777 == 0o600
    code, error, _ = call(tmp_path, "keys", "init", DATABASE_URL=real, DATABASE_ADMIN_URL=real)
    assert code == 78, "keys are never replaced"


def test_a_full_disk_stops_by_name_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m,mode=0755", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    home = place / "home"
    environment = {"DATABASE_URL": "", "DATABASE_ADMIN_URL": "", "NATS_URL": ""}
    command = ("demo", "--days", "1", "--users", "40")
    try:
        code, _, talk = program(home, "up", **environment)
        assert code == 0, talk
        fill(place / "filler", leave=512 * 1024)
        code, _, talk = program(home, *command, **environment)
        assert code == 2, talk
        assert "No space left" in talk or "disk" in talk.lower(), talk
        assert "Traceback" not in talk
        (place / "filler").unlink()
        code, said, talk = program(home, *command, **environment)
        assert code == 0, talk
        assert said["days"][0]["state"] == "sealed"
    finally:
        end = [sys.executable, "-m", "pipelines.local", "purge"]
        subprocess.run(end, env={**os.environ, "COMPLINE_HOME": str(home), **environment}, check=False)
        subprocess.run(["umount", "-l", str(place)], check=False)
        shutil.rmtree(place, ignore_errors=True)


def fill(path: Path, *, leave: int) -> None:
    """Take all room but a little."""
    with path.open("wb") as out:
        while shutil.disk_usage(path).free > leave:
            out.write(bytes(min(1 << 20, max(4096, shutil.disk_usage(path).free - leave))))
            out.flush()
