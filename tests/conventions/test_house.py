"""The house keeps its rules: imports one way, every command documented, nothing of one machine in the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.cli.app import app

ROOT = Path(__file__).resolve().parents[2]


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        assert command.name == name
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL_COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_every_command_has_help_json_and_a_line_in_the_readme(path: tuple[str, ...]) -> None:
    command = ALL_COMMANDS[path]
    assert command.help
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options or path == ("dev",), "dev becomes Dagster's own process"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert path[-1] in readme
    for parameter in command.params:
        assert parameter.name in ("help",) or getattr(parameter, "help", None), f"{parameter.name} has no help"


WRITES = [
    ("demo",),
    ("up",),
    ("down",),
    ("close", "run"),
    ("close", "backfill"),
    ("keys", "init"),
    ("reserves", "prove"),
    ("reserves", "history"),
    ("reserves", "user-key"),
    ("exchange", "import-tape"),
    ("exchange", "serve"),
    ("exchange", "request"),
    ("accounts", "transition"),
    ("accounts", "hold", "open"),
    ("accounts", "hold", "release"),
    ("accounts", "release"),
    ("accounts", "kyc", "event"),
    ("accounts", "kyc", "serve"),
    ("accounts", "closure", "request"),
    ("accounts", "closure", "reverse"),
    ("accounts", "closure", "finish"),
    ("accounts", "onboard"),
    ("accounts", "import"),
    ("accounts", "obligations"),
    ("accounts", "adjust"),
    ("accounts", "revise"),
    ("accounts", "approve"),
    ("accounts", "reject"),
    ("accounts", "cap"),
    ("accounts", "screen"),
    ("accounts", "clear"),
    ("accounts", "identify"),
    ("accounts", "capture-list"),
    ("market", "collect"),
    ("market", "load"),
    ("keys", "rotate"),
    ("reserves", "attest"),
    ("evidence", "pack"),
]


@pytest.mark.parametrize("path", WRITES, ids=" ".join)
def test_every_write_has_a_dry_run(path: tuple[str, ...]) -> None:
    assert "--dry-run" in {option for parameter in ALL_COMMANDS[path].params for option in parameter.opts}


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("engine/ledger/journal.py", "import dagster", "The engine knows no orchestrator"),
        ("engine/ledger/journal.py", "from engine.steps import plan", "The engine, outer to inner"),
        ("engine/exchange/book.py", "import psycopg", "The core knows no database"),
        ("assets/graph.py", "from pipelines import jobs", "The house"),
        ("engine/steps/seals.py", "import psycopg", "The steps reach Postgres through the store"),
    ],
)
def test_the_import_contracts_bite(tmp_path: Path, file: str, line: str, contract: str) -> None:
    for name in ("engine", "assets", "checks", "pipelines"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / file
    planted.write_text(planted.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 1
    broken = [text for text in done.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(text.startswith(contract) for text in broken), done.stdout[-2000:]


def test_only_the_clock_asks_what_time_it_is() -> None:
    asks = re.compile(r"\b(datetime\.now|datetime\.utcnow|date\.today|time\.time)\(")
    for path in tracked("engine", "assets", "checks", "pipelines"):
        if path.suffix == ".py" and path != ROOT / "engine" / "clock.py":
            assert not asks.search(path.read_text(encoding="utf-8")), path


def test_no_path_host_or_tool_of_a_workplace_is_in_the_tree() -> None:
    own = Path(__file__)
    words = [f"/{'work'}/", f"/{'farm'}/", f".{'library'}", "pypi.org", "files.pythonhosted", f"{'before'}-stop"]
    for path in tracked():
        if path == own or path.suffix in (".png", ".parquet"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for word in words:
            assert word not in text, f"{path}: {word}"


def test_every_module_says_what_it_is_and_stays_small() -> None:
    for path in tracked("engine", "assets", "checks", "pipelines"):
        if path.suffix == ".py" and path.name != "__init__.py":
            text = path.read_text(encoding="utf-8")
            assert text.startswith('"""'), path
            assert len(text.splitlines()) <= 450 or path.name == "compline_verify.py", f"{path}: one file by design"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/runbooks").glob("*.md")), ids=lambda page: page.stem)
def test_every_runbook_says_what_it_means_where_to_look_who_decides_what_is_safe_and_how_back(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parts = ["Meaning", "First look", "Who decides", "Safe re-run", "How to reverse"]
    places = [text.find(f"**{part}.**") for part in parts]
    assert [part for part, place in zip(parts, places, strict=True) if place < 0] == []
    assert places == sorted(places)
    first = text[places[1] : places[2]]
    assert "compline" in first or "metadata" in first, (
        "the first look names a command, or where the check shows its rows"
    )
