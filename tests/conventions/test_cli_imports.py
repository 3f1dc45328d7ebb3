"""A command loads what it needs: asking how a day stands takes no orchestrator, compiler or message client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from alembic.script import ScriptDirectory

from engine.store import migrate

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("dagster", "dbt", "great_expectations", "pandas", "numba", "numpy", "pyarrow", "sqlalchemy", "alembic", "nats")


LIGHT = ("close", "alerts", "market", "doctor", "keys", "recon")


def test_commands_that_look_load_no_library_that_they_do_not_need() -> None:
    program = (
        "import sys, typer; from pipelines.cli.app import app\n"
        f"for command in {LIGHT}:\n"
        "    assert typer.main.get_command(app).get_command(None, command)\n"
        f"    print(command, *(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(LIGHT)


def test_head_by_the_names_of_the_files_is_alembics_one_head() -> None:
    assert ScriptDirectory.from_config(migrate._config()).get_heads() == [migrate.head()]
