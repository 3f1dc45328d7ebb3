"""The evidence pack as a file: a plain zip with deterministic bytes, and a reader that trusts nothing in it.

What belongs here: writing and reading the zip and its list of digests. Source: docs/auditors/files.md.
What does not: which files a pack has (see `engine.steps.evidence_packs`), and what they must say (see the verifier).
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from engine.reserves.fields import FormatError

LIST = "SHA256SUMS"
LONGEST = 256 * 2**20
MOST_ENTRIES = 1000
_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_STAMP = (1980, 1, 1, 0, 0, 0)


class PackError(FormatError):
    """A file that is no evidence pack, or one that was changed."""


def pack_name(day: str, version: int) -> str:
    """The name of a pack."""
    return f"evidence-{day}-v{version}.zip"


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """The list of digests: hex, two spaces, name, LF, sorted by name."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode("ascii")


def write_pack(files: Mapping[str, bytes]) -> bytes:
    """The zip's bytes: the same for the same files, on every machine.

    Stored, not deflated: two versions of zlib may compress alike inputs differently.

    Raises:
        PackError: a name or size that the reader would refuse.
    """
    whole = {**files, LIST: sums_of(files)}
    if len(whole) > MOST_ENTRIES or sum(map(len, whole.values())) > LONGEST or LIST in files:
        raise PackError("the pack is too large", rule=f"at most {MOST_ENTRIES} entries and {LONGEST} bytes")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name in sorted(whole):
            _check_name(name)
            entry = zipfile.ZipInfo(name, _STAMP)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, whole[name])
    return target.getvalue()


def read_pack(path: Path) -> dict[str, bytes]:
    """The files of a pack, whose list of digests holds.

    Raises:
        PackError: no zip, truncated, names that leave a folder, too large, or not what its list says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if archive.comment or len(entries) > MOST_ENTRIES or sum(one.file_size for one in entries) > LONGEST:
                raise PackError(
                    f"{path}: too large, or a comment", rule=f"at most {MOST_ENTRIES} entries, {LONGEST} bytes"
                )
            files: dict[str, bytes] = {}
            for entry in entries:
                _check_name(entry.filename)
                if entry.filename in files or entry.flag_bits & 1 or entry.compress_type not in (0, 8):
                    raise PackError(f"{path}: entry {entry.filename} is twice there, encrypted or compressed otherwise")
                with archive.open(entry) as source:
                    data = source.read(entry.file_size + 1)
                if len(data) != entry.file_size:
                    raise PackError(f"{path}: entry {entry.filename} is not as long as it says")
                files[entry.filename] = data
    except PackError:
        raise
    except FileNotFoundError:
        raise PackError(f"{path}: no such file", next_step="compline evidence pack DATE") from None
    except (zipfile.BadZipFile, OSError, zlib.error, NotImplementedError, EOFError, ValueError) as error:
        raise PackError(f"{path}: not a whole zip ({str(error)[:120]})", rule="a plain zip") from error
    stated = files.pop(LIST, b"")
    if stated != sums_of(files):
        raise PackError(f"{path}: its files are not those of {LIST}", rule="every file is listed with its SHA-256")
    return files


def _check_name(name: str) -> None:
    parts = name.split("/")
    if not _NAME.fullmatch(name) or len(name) > 200 or any(part in (".", "..") for part in parts):
        raise PackError(f"entry {name[:80]!r}", rule="relative names of letters, digits, '.', '_' and '-'")
