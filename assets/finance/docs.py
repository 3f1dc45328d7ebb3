"""The project's documentation: dbt's pages as one file, made without a database.

What belongs here: that one invocation. What does not: where the file goes (see `pipelines.docs`).
"""

from __future__ import annotations

from pathlib import Path

from assets.finance.dbt_process import base_arguments, dbt_environment, work_folder
from assets.finance.manifest import PLACEHOLDER
from engine.errors import ConfigError

PAGE = "static_index.html"


def build_docs(cache: Path, target: Path) -> Path:
    """Write dbt's documentation of every source, model, test and exposure.

    Args:
        cache: where scratch files may lie.
        target: the folder for the page.

    Returns:
        The page: one file that opens without a server.

    Raises:
        ConfigError: dbt cannot parse the project.
    """
    nowhere = {"host": "localhost", "port": "5432", "user": "nobody", "password": "none", "dbname": PLACEHOLDER}
    with work_folder(cache) as work, dbt_environment(**nowhere):
        from dbt.cli.main import dbtRunner

        arguments = [one for one in base_arguments(work) if one != "--no-write-json"]
        done = dbtRunner().invoke(["parse", *arguments])
        if done.success:
            # Not compiled: that would ask a database which tables are there.
            done = dbtRunner().invoke(["docs", "generate", "--static", "--empty-catalog", "--no-compile", *arguments])
        made = work / PAGE
        if not done.success or not made.is_file():
            raise ConfigError(
                f"dbt cannot document the project: {' '.join(str(done.exception).split())}",
                next_step="correct the file that it names in dbt/",
            )
        target.mkdir(parents=True, exist_ok=True)
        return made.replace(target / PAGE)
