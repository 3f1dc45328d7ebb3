"""Where the embedded Postgres keeps its data: below the home, or outside where its user cannot enter the home.

Under root the server runs as `nobody`, which cannot enter a clone below /root (mode 0700). Then the data and a copy of
the binaries go to a folder of their own. The home remembers that folder by a random id, and the folder remembers the
home, so that a moved home finds its data again and a copied home does not share it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipelines.local import postgres_binaries as pg_binaries
from pipelines.local import run_as
from pipelines.local.errors import LocalServerError, from_os_error
from pipelines.local.files import read_state, write_state

OUTSIDE_PARENTS = (Path("/var/lib"), Path("/var/tmp"), Path("/opt"))


@dataclass(frozen=True)
class Place:
    """Where one home's Postgres lives.

    Args:
        folder: holds the data directory and, where needed, the copied binaries.
        outside: whether that is outside the home.
        user: who the server runs as.
    """

    folder: Path
    outside: bool
    user: run_as.RunAs

    @property
    def data_dir(self) -> Path:
        """The data directory."""
        return self.folder / "data"


def state_file(home: Path) -> Path:
    """What the home remembers of its Postgres: port, place, id.

    Args:
        home: the home.
    """
    return home / "postgres.json"


def remembered_folder(home: Path) -> Path:
    """The folder as the last start left it, without creating anything.

    Args:
        home: the home.
    """
    outside = read_state(state_file(home)).get("outside")
    return Path(str(outside)) if outside and _is_ours(home, Path(str(outside))) else home / "postgres"


def find_or_make(home: Path) -> Place:
    """The place for this home's Postgres, created where it is not there.

    Args:
        home: the home, already created.

    Raises:
        LocalServerError: no folder can be written that the server's user can enter, or cannot enter that of its data.
    """
    folder = remembered_folder(home)
    user = run_as.choose(folder / "data")
    if (folder / "data").exists() and run_as.can_enter(user, folder):
        return Place(folder, folder != home / "postgres", user)
    if (folder / "data").exists():
        # Never another place beside data that is there: a check that failed must not look like an empty book.
        raise LocalServerError(
            f"user {user.name}, who owns the data in {folder}, cannot enter that folder",
            next_step=f"let others pass through the folders above it (`chmod o+x`), or move {home} back",
        )
    inside = home / "postgres"
    try:
        inside.mkdir(mode=0o755, exist_ok=True)
        inside.chmod(0o755)
    except OSError as error:
        raise from_os_error(error, inside) from error
    if run_as.can_enter(user, inside):
        return Place(inside, False, user)
    return Place(_make_outside(home), True, user)


def _make_outside(home: Path) -> Path:
    last: OSError | None = None
    for parent in OUTSIDE_PARENTS:
        folder = parent / f"compline-{secrets.token_hex(6)}"
        try:
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)
        except OSError as error:
            last = error
            continue
        _claim(home, folder)
        write_state(state_file(home), read_state(state_file(home)) | {"outside": str(folder)})
        return folder
    raise from_os_error(last or OSError("no folder"), OUTSIDE_PARENTS[0])


def _claim(home: Path, folder: Path) -> None:
    write_state(folder / "home.json", {"home": str(home.resolve())})


def _is_ours(home: Path, folder: Path) -> bool:
    """Whether the outside folder belongs to this home: a moved home takes it along, a copied one does not."""
    recorded = read_state(folder / "home.json").get("home")
    if recorded is None:
        return False
    if Path(str(recorded)) == home.resolve():
        return True
    if read_state(state_file(Path(str(recorded)))).get("outside") == str(folder):
        return False
    if os.access(folder, os.W_OK):
        _claim(home, folder)
    return True


def purge(home: Path) -> None:
    """Remove the data, also outside the home. The server is stopped.

    Args:
        home: the home.

    Raises:
        LocalServerError: a file cannot be removed.
    """
    folder = remembered_folder(home)
    try:
        while folder.is_dir():
            # Another purge of this home may take what this one is about to.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
        state_file(home).unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(error, folder) from error


def binaries_for(place: Place) -> pg_binaries.Binaries:
    """The binaries that fit the data and that the server's user can run.

    Args:
        place: from `find_or_make`.

    Raises:
        LocalServerError: there are none.
    """
    version = place.data_dir / "PG_VERSION"
    try:
        major = int(version.read_text(encoding="ascii")) if version.exists() else None
    except ValueError:
        raise LocalServerError(f"{version} is unreadable", next_step="`make clean` to start anew") from None
    except OSError as error:
        raise from_os_error(error, version) from error
    return pg_binaries.reachable(pg_binaries.find(major), place.user, place.folder)
