"""Attacks on a good pair of files: what `docs/auditors/must_fail` is made of.

Run it to write the folder again: `python -m tests.truth.must_fail`. Every case is one file that a verifier must
refuse, the rule that it breaks, and a line on the attack. The keys are the demo's, so that anyone can sign further cases.

What belongs here: the folder. What does not: the cases (see `must_fail_proofs`, `must_fail_packs`), and the good files (see
`tests/fixtures/proof_files.py`).
"""

# ruff: noqa: E501 -- a table reads best with one attack a line
from __future__ import annotations

import json
from pathlib import Path

from tests.fixtures.proof_files import pack_entries, pack_zip, small_log
from tests.truth.must_fail_packs import pack_cases
from tests.truth.must_fail_proofs import Case, proof_cases

FOLDER = Path(__file__).parents[2] / "docs" / "auditors" / "must_fail"


def all_cases() -> list[Case]:
    """Every case, by name."""
    log = small_log()
    return sorted([*proof_cases(log), *pack_cases(log)], key=lambda case: case.name)


def folder_files() -> dict[str, bytes]:
    """Name -> bytes of the whole folder."""
    log = small_log()
    cases = [case for case in all_cases() if len(case.data) <= 65536]
    lines = [f"| [{case.name}]({case.name}) | `{case.rule}` | {case.attack} |" for case in cases]
    head = (FOLDER / "README.md").read_text(encoding="utf-8").split("| file |")[0] if FOLDER.is_dir() else ""
    table = "\n".join(["| file | rule | the attack |", "|---|---|---|", *lines, ""])
    return {
        "README.md": (head + table).encode(),
        "keys.txt": log.key_file().encode(),
        "checkpoint.txt": log.checkpoints[2].encode(),
        "good-proof.json": json.dumps(log.proof("acct-1", 1)).encode(),
        "good-evidence.zip": pack_zip(pack_entries(log, 1)),
        **{case.name: case.data for case in cases},
    }


def _write() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in folder_files().items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    _write()
