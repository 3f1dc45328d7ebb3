"""Attacks on a day's evidence pack.

What belongs here: cases. What does not: attacks on a proof file (see `must_fail_proofs`).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from functools import cache

from tests.fixtures.proof_files import SmallLog, pack_entries, pack_zip
from tests.truth.must_fail_proofs import Case, Json


def pack_cases(log: SmallLog) -> Iterator[Case]:
    """Attacks on a day's evidence pack."""
    entries = pack_entries(log, 1)
    good = pack_zip(entries)

    def changed(**files: bytes) -> bytes:
        return pack_zip(pack_entries(log, 1, {name.replace("__", "."): data for name, data in files.items()}))

    yield Case("zip-truncated.zip", good[: len(good) // 2], "zip", "half of a zip")
    yield Case(
        "zip-name-climbs.zip",
        pack_zip({**entries, "../../evil.txt": b"x"}),
        "zip-name",
        "a name that leaves the folder it is unpacked in",
    )
    yield Case("zip-name-absolute.zip", pack_zip({**entries, "/etc/evil": b"x"}), "zip-name", "an absolute name")
    yield Case(
        "zip-name-twice.zip", _twice_in_zip(entries), "zip-name", "one name twice: readers differ in which one counts"
    )
    yield Case("zip-bomb-declared.zip", _bomb, "size", "half a gigabyte of zeros in half a megabyte")
    yield Case("zip-bomb-undeclared.zip", _lying(entries), "zip", "an entry that is larger than its stated size")
    yield Case(
        "zip-file-changed.zip",
        pack_zip({**entries, "report.html": b"other"}),
        "pack-files",
        "a file is not what the list says",
    )
    yield Case(
        "zip-file-unlisted.zip",
        pack_zip({**entries, "extra.txt": b"x"}),
        "pack-files",
        "a file that is not on the list",
    )
    yield Case(
        "zip-manifest-missing.zip",
        pack_zip({k: v for k, v in entries.items() if k != "manifest.json"}),
        "pack-files",
        "no manifest",
    )
    yield Case(
        "zip-policy-of-others.zip",
        changed(policy__json=b'{"cutoff":"08:00 UTC"}'),
        "policy_sha256",
        "another policy than the one in force",
    )
    yield Case(
        "zip-verdicts-changed.zip", changed(verdicts__json=b"[]"), "verdicts_sha256", "a failed gate is left out"
    )
    totals = entries["control_totals.json"]
    yield Case(
        "zip-totals-changed.zip",
        changed(control_totals__json=totals.replace(b"2100000150000002", b"2100000150000003")),
        "control-totals",
        "the ledger owes more than the trees",
    )
    yield Case(
        "zip-totals-unbalanced.zip",
        changed(control_totals__json=totals.replace(b'"-2100000150000002"', b'"-2100000150000009"')),
        "control-totals",
        "the ledger holds more than its credits explain: a liability of another class is left out",
    )
    yield Case(
        "zip-marks-changed.zip",
        changed(marks__json=entries["marks.json"].replace(b"64000.01", b"94000.01")),
        "books",
        "another price than the books were closed at",
    )
    yield Case(
        "zip-books-changed.zip",
        changed(books__json=entries["books.json"].replace(b"ab", b"cd", 1)),
        "books",
        "the digest of another table than the books hash is of",
    )
    yield Case(
        "zip-signature-changed.zip",
        changed(manifest__sig=b"00" * 64 + b"\n"),
        "signature",
        "no signature of the manifest",
    )


def _twice_in_zip(entries: Json) -> bytes:
    """Two entries of one name, which `zipfile` would warn of: the second is written under a name of equal length."""
    data = pack_zip({**entries, "polixy.json": b"{}"})
    return data.replace(b"polixy.json", b"policy.json")


@cache
def _bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as pack, pack.open("zeros", "w") as file:
        for _ in range(512):
            file.write(bytes(2**20))
    return out.getvalue()


def _lying(entries: Json) -> bytes:
    """An entry of a megabyte that says ten bytes, in its own header and in the directory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        info = zipfile.ZipInfo("zeros", (1980, 1, 1, 0, 0, 0))
        info.compress_type = zipfile.ZIP_DEFLATED
        pack.writestr(info, bytes(2**20))
    return out.getvalue().replace((2**20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
