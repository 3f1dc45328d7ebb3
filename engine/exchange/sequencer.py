"""The sequencer: the one way to write to an exchange.

What belongs here: the order and time of commands, the cut-off journalled before the first command at or after it,
opening and recovering an exchange's directory.
What does not: what a command does (see `engine`), and who may send it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType

from engine.clock import CloseDate, CutOffs, day_number, from_day_number, to_us
from engine.errors import UsageError
from engine.exchange import snapshots
from engine.exchange.commands import Command
from engine.exchange.commands import CutOff as CutOffCommand
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import CutOff, Event
from engine.exchange.journal import JournalReader
from engine.exchange.journal_writer import JournalWriter, Sink

Keep = Callable[[ExchangeEngine], None]


class Sequencer:
    """Puts commands in order, journals them, applies them. What it returned counts after `commit`.

    Args:
        engine: the state up to the sink's last record.
        sink: where records go.
        cutoff_rule: when the open day ends.
        directory: of the exchange; None for one in memory, which keeps no snapshots.
        keep: keeps the state right after a cut-off, which is durable then; None writes it down here and now.
    """

    def __init__(
        self,
        engine: ExchangeEngine,
        sink: Sink,
        *,
        cutoff_rule: CutOffs,
        directory: Path | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.engine = engine
        self.sink = sink
        self.cutoff_rule = cutoff_rule
        self.directory = directory
        self._keep = keep if keep is not None or directory is None else partial(snapshots.keep, directory)
        self._cutoff_us = self._instant_us()

    def submit(self, command: Command, at_us: int) -> list[Event]:
        """Sequence, journal and apply a command.

        Args:
            command: anything but a cut-off.
            at_us: when it arrived; the clock never goes back, so an earlier time becomes the last one.

        Returns:
            The events, those of a cut-off that had to come first included.

        Raises:
            InputError: the command does not fit a record; nothing was sequenced (but the cut-offs before it).
            JournalWriteError: the disk refused.
            UsageError: the command is a cut-off.
        """
        if isinstance(command, CutOffCommand):
            raise UsageError("a cut-off is not submitted", next_step="call cut_off(day)")
        ts_us = max(self.engine.last_ts_us, at_us)
        if ts_us < self._cutoff_us:
            return self.engine.apply(self.sink.append(command, ts_us))
        events: list[Event] = []
        while ts_us >= self._cutoff_us:
            events.append(self._cut_off())
        return [*events, *self.engine.apply(self.sink.append(command, ts_us))]

    def cut_off(self, day: CloseDate, *, at_us: int | None = None) -> CutOff | None:
        """End a day, durably.

        Args:
            day: the open day; one already ended is left as it is.
            at_us: the present, if it is to be checked against the day's cut-off instant.

        Returns:
            The event, or None where the day had been ended before (`history.cut_offs` has it).

        Raises:
            UsageError: an earlier day is still open, or the instant has not come.
        """
        number = day_number(day)
        opened = self.engine.open_day
        if number < opened:
            return None
        if number > opened:
            raise UsageError(
                f"{day} cannot be cut off: {from_day_number(opened)} is still open",
                rule="days are cut off in order",
                next_step=f"cut off {from_day_number(opened)} first",
            )
        if at_us is not None and at_us < self._cutoff_us:
            raise UsageError(
                f"{day} ends at {self.cutoff_rule.instant(day).isoformat()}, which has not come",
                rule="a day is cut off at or after its cut-off instant",
                next_step="wait for the cut-off",
            )
        event = self._cut_off()
        self.commit()
        return event

    @property
    def open_day(self) -> CloseDate:
        """The close date that commands belong to now."""
        return from_day_number(self.engine.open_day)

    def follow(self, cutoff_rule: CutOffs) -> None:
        """Let days end by another rule from the open one on; a cut-off that is journalled stands."""
        self.cutoff_rule = cutoff_rule
        self._cutoff_us = self._instant_us()

    def commit(self) -> None:
        """Make everything submitted durable; only then may it be acknowledged."""
        self.sink.commit()

    def close(self) -> None:
        """Commit and release the journal."""
        self.sink.close()

    def __enter__(self) -> Sequencer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _instant_us(self) -> int:
        return to_us(self.cutoff_rule.instant(from_day_number(self.engine.open_day)))

    def _cut_off(self) -> CutOff:
        """Journal the cut-off of the open day at its instant, and keep the state there."""
        day = self.engine.open_day
        # After a policy change to an earlier time the instant can lie before the last command: the clock still rules.
        ts_us = max(self.engine.last_ts_us, self._cutoff_us)
        (event,) = self.engine.apply(self.sink.append(CutOffCommand(day), ts_us))
        assert isinstance(event, CutOff), "the open day can always be cut off"
        self._cutoff_us = self._instant_us()
        if self._keep is not None:
            # The snapshot must never be ahead of the journal.
            self.sink.commit()
            self._keep(self.engine)
        return event


def open_exchange(
    directory: Path, *, first_day: CloseDate, cutoff_rule: CutOffs, keep: Keep | None = None
) -> Sequencer:
    """Create an exchange or recover it, as its only writer.

    Every record is checked; the state comes from the newest good snapshot and the records after it. Snapshots of
    cut-offs in that tail are taken again if they are missing.

    Args:
        directory: where the journal and its snapshots are.
        first_day: the first close date; genesis is the day before.
        cutoff_rule: when a day ends.
        keep: keeps the state of a cut-off; None writes it down here and now.

    Raises:
        JournalLockedError: another process writes it.
        JournalMismatchError: the journal there begins on another day.
        JournalCorruptError: a record inside does not hold.
        JournalWriteError: the disk refused.
    """
    kept = keep or partial(snapshots.keep, directory)
    writer = JournalWriter(directory, first_day=day_number(first_day))
    try:
        with JournalReader(writer.path) as reader:
            engine = snapshots.newest_engine(directory, reader)
            for record in reader.records(engine.last_seq):
                if any(isinstance(event, CutOff) for event in engine.apply(record)):
                    kept(engine)
    except BaseException:
        writer.abandon()
        raise
    return Sequencer(engine, writer, cutoff_rule=cutoff_rule, directory=directory, keep=keep)
