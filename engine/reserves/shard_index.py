"""The folder of a day's shards as others find it: its index, its files' names, how many there are.

What belongs here: what can be said without a key. What does not: writing shards (see `shards`).

A folder of shards holds `index.json` (what the day's shards are) and `<prefix>.shard` for every prefix that has an
account, `all.shard` where the prefix is empty. Records are of one size: the least multiple of 4096 that holds the
largest record that anyone's assets could make, so that a size tells no balance. The size, the number of records of a
shard and the locators are all that an outsider sees.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engine.canonical import jcs

VERSION = "shards/1"
INDEX = "index.json"
MOST_DIGITS = 4
_CROWD = 64


@dataclass(frozen=True)
class Shards:
    """What a folder of shards is, as its index says.

    Attributes:
        digits: hex digits of SHA-256(account) that choose a shard.
        record_bytes: of a plaintext; a record has 64 more.
        files: name -> SHA-256, hex.
        records: how many, in all shards.
    """

    ctx: bytes
    digits: int
    record_bytes: int
    files: dict[str, str]
    records: int

    def index(self) -> bytes:
        """The index file: canonical, one line."""
        value = {
            "v": VERSION,
            "ctx": self.ctx.hex(),
            "digits": self.digits,
            "files": self.files,
            "record_bytes": self.record_bytes,
            "records": self.records,
        }
        return jcs(value) + b"\n"


def shard_file(prefix: str) -> str:
    """The name of a shard's file."""
    return f"{prefix or 'all'}.shard"


def digits_for(accounts: int, most: int) -> int:
    """So many digits that a shard has some 64 accounts or more, among which who fetches hides; at most the policy's.

    Args:
        accounts: in all trees of the day.
        most: the policy's digits, 0 to 4.
    """
    digits = 0
    while digits < min(most, MOST_DIGITS) and accounts >= _CROWD * 16 ** (digits + 1):
        digits += 1
    return digits


def open_index(folder: Path) -> bytes | None:
    """The index of a folder of shards whose files are all there with their sizes, or None."""
    try:
        data = (folder / INDEX).read_bytes()
        value = json.loads(data)
        step = value["record_bytes"] + 64
        sizes = [(folder / name).stat().st_size for name in value["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all(size % step == 0 for size in sizes) and sum(sizes) == step * value["records"]
    return data if whole else None
