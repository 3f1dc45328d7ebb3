"""Evidence of sealed days for commands: the trees of a day, opened or made again, and packs in folders.

What belongs here: a step's context for reading, without a lease. What does not: what evidence is (see `engine.steps`).
"""

from __future__ import annotations

from contextlib import closing
from datetime import date
from pathlib import Path

from engine import clock
from engine.errors import GateError, InputError
from engine.reserves.arena import TreeArena
from engine.reserves.manifest import parse_manifest
from engine.reserves.pack import read_pack
from engine.steps import liability_trees
from engine.steps.context import StepContext
from engine.steps.pack import Pack
from engine.store import seals
from engine.store.connect import connect, typed_errors
from pipelines.books import OpenBook
from pipelines.key_store import load_keys


def reading_context(opened: OpenBook, day: date) -> StepContext:
    """A context of a date that holds no lease: whatever would write is refused."""
    return StepContext(
        url=opened.url,
        close_date=day,
        run_id="reading",
        epoch=0,
        book=opened.book,
        policy=opened.policy_on(max(day, opened.book.first_day)),
        journal_dir=opened.files.journal_dir,
        evidence_dir=opened.files.evidence_dir,
        load_keys=lambda: load_keys(opened.settings, opened.card),
        now=clock.now(),
        tree_kernel=opened.settings.tree_kernel,
    )


def sealed_trees(opened: OpenBook, day: date, version: int | None = None) -> dict[str, TreeArena]:
    """The stored trees of a sealed date by asset; made again where they are not on this machine.

    Raises:
        GateError: the date is not sealed.
    """
    with closing(connect(opened.url)) as connection, typed_errors():
        seal = seals.read(connection, day, version)
        if seal is None or seal.kind != "day":
            raise GateError(f"{day} is not sealed: it has no trees", next_step=f"compline close run {day}")
        header = parse_manifest(seal.manifest.encode()).header
        return liability_trees.stored(connection, reading_context(opened, day), header)


def packs_up_to(path: Path, day: date) -> list[Pack]:
    """The packs of a date and of earlier ones that are at hand, oldest first, one version a date.

    Of the date itself it is the newest version, of an earlier one the newest that was in the log before it.

    Args:
        path: one pack, or a folder that packs lie in at any depth.
        day: close date; its pack is the last.

    Raises:
        InputError: the date's own pack is not there, or a pack cannot be read.
    """
    found: dict[str, list[Pack]] = {}
    for file in [path] if path.is_file() else sorted(path.rglob("evidence-*-v*.zip")):
        pack = Pack(read_pack(file))
        found.setdefault(pack.manifest.header.close_date, []).append(pack)
    own = max(found.get(str(day), []), key=lambda one: one.manifest.header.seq, default=None)
    if own is None:
        raise InputError(f"{path} has no evidence pack of {day}", next_step=f"compline evidence pack {day}")
    before = [
        max(earlier, key=lambda one: one.manifest.header.seq)
        for name, packs in sorted(found.items())
        if name < str(day) and (earlier := [p for p in packs if p.manifest.header.seq < own.manifest.header.seq])
    ]
    return [*before, own]
