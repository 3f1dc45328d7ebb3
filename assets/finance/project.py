"""The dbt project as files: where it lies, its digest, and what its yml says of the marts.

What belongs here: reading `dbt/` without importing dbt, which costs seconds that a code location should not spend.
What does not: the parsed manifest (see `manifest`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from engine.errors import ConfigError

SCHEMA = "finance"
PROJECT_DIR = Path(__file__).resolve().parents[2] / "dbt"
READ = (".sql", ".yml")


@dataclass(frozen=True)
class MartTest:
    """A dbt test of a mart.

    Attributes:
        name: the invariant that holds, unique in the project.
        kind: the generic test behind it.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Mart:
    """A mart as its yml describes it.

    Attributes:
        name: of the model and of its table in schema finance.
        description: the grain in the first sentence.
        columns: (name, data type, description).
        tests: its data tests.
    """

    name: str
    description: str
    columns: tuple[tuple[str, str, str], ...]
    tests: tuple[MartTest, ...]


def dbt_version() -> str:
    """The version of dbt-core and of its Postgres adapter, without importing either."""
    return f"{version('dbt-core')}+postgres-{version('dbt-postgres')}"


def project_digest() -> str:
    """Hex SHA-256 over the project's files and dbt's version: what a prepared manifest was made from.

    Raises:
        ConfigError: the project is not there.
    """
    digest = hashlib.sha256(dbt_version().encode())
    for path in _files():
        data = path.read_bytes()
        digest.update(f"\n{path.relative_to(PROJECT_DIR).as_posix()} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _files() -> list[Path]:
    if not (PROJECT_DIR / "dbt_project.yml").is_file():
        raise ConfigError(f"{PROJECT_DIR} holds no dbt project", next_step="run Compline from its clone")
    found = [*PROJECT_DIR.glob("*.yml")]
    for folder in ("models", "macros", "tests"):
        found += [path for path in (PROJECT_DIR / folder).rglob("*") if path.suffix in READ]
    return sorted(found)


def relation_names() -> frozenset[str]:
    """Every table and view that the project keeps in schema finance: one a model."""
    return frozenset(path.stem for path in (PROJECT_DIR / "models").rglob("*.sql"))


@cache
def marts() -> tuple[Mart, ...]:
    """The marts, by name, from the yml beside each."""
    return tuple(_mart(path) for path in sorted((PROJECT_DIR / "models" / "marts").glob("*.yml")))


def _mart(path: Path) -> Mart:
    model = yaml.safe_load(path.read_text(encoding="utf-8"))["models"][0]
    columns = model["columns"]
    tests = [test for owner in (*columns, model) for test in owner.get("data_tests", [])]
    return Mart(
        name=model["name"],
        description=" ".join(model["description"].split()),
        columns=tuple((c["name"], c["data_type"], c["description"]) for c in columns),
        tests=tuple(sorted((_test(path, test) for test in tests), key=lambda test: test.name)),
    )


def _test(path: Path, entry: dict[str, Any]) -> MartTest:
    ((kind, body),) = entry.items()
    return MartTest(body["name"], kind)
