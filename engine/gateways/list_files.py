"""Lists that lie in files: a list as its publisher gives it, put there by whoever fetches it.

What belongs here: reading one. What does not: its format (see `engine.screening.lists`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import UncheckedError


@dataclass(frozen=True)
class ListFile:
    """A list in a file.

    Attributes:
        name: as the policy names the list.
        path: where it lies.
    """

    name: str
    path: Path

    def fetch(self) -> bytes:
        """The file's bytes.

        Raises:
            UncheckedError: it is not there or cannot be read.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UncheckedError(
                f"list {self.name}: {self.path} cannot be read: {error.strerror}",
                rule="a list that is not there is not an empty list",
                next_step="fetch it again",
            ) from None
