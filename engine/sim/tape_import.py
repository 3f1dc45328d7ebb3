"""A tape driven through the exchange: each print becomes a resting order and the taker that hits it.

What belongs here: users and their funding, the two orders of a print, what an import finds already done.
What does not: the files and their rules (see `tape`), and the cut-off after the last print (the close does that).

An import can be killed anywhere and run again, and run again when it is done: every command it sends has a reference
(`spot:BTCUSDT:<trade id>` for the taker, `…:m` for the maker, `fund:<import>:<account>:<asset>` for the funding), and
what the journal already holds is compared and skipped. The engine's trades are then the tape's, print by print.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from engine.clock import CloseDate, from_day_number, from_us, iso_us, to_us
from engine.errors import GateError, InputError
from engine.exchange import commands as cmd
from engine.exchange.engine import ExchangeEngine
from engine.exchange.events import Event, Rejected, Side, Trade
from engine.exchange.journal import JournalReader, journal_path
from engine.exchange.locks import lock_units
from engine.exchange.sequencer import Sequencer
from engine.sim.specs import ASSET_IDS, DECIMALS, STREAMS, StreamSpec
from engine.sim.tape import Print

Progress = Callable[[int, int], None]
_GROUP_PRINTS = 1000
_MAKER = ":m"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How a tape's users look.

    Attributes:
        users: how many; each print's two are chosen by seed, stream and trade id, so a late print gets its own too.
        seed: any integer.
        maker_rate_ppm: fee rates, set once when the exchange is new.
        taker_rate_ppm: see above.
    """

    users: int = 200
    seed: int = 1
    maker_rate_ppm: int = 1000
    taker_rate_ppm: int = 1000


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import did.

    Attributes:
        prints: those in the selection.
        imported: those that traded now.
        skipped: those that the journal already held.
        trades_by_day: trades of this import by the close date that they fell into.
        users: open accounts.
        deposits: funding deposits made now.
        seconds: wall time.
    """

    prints: int
    imported: int
    skipped: int
    trades_by_day: dict[CloseDate, int]
    users: int
    deposits: int
    seconds: float

    @property
    def nothing_to_do(self) -> bool:
        """Whether the tape was already there, whole."""
        return self.imported == 0


def import_prints(
    sequencer: Sequencer, prints: list[Print], options: ImportOptions | None = None, *, progress: Progress | None = None
) -> ImportSummary:
    """Import a tape's prints, funding their users first; durable on return.

    Prints are sequenced at their exchange time, or now where the journal is further: those are late, fall into the
    open day and keep their own time as `effective_us`.

    Args:
        sequencer: the exchange; its journal is complete and committed.
        prints: from `tape.read_tape`, in its order.
        options: the users.
        progress: called with (done, total) prints.

    Raises:
        InputError: a print is before the first day, or was imported with another payload; nothing was written.
        GateError: the engine's trade is not the print (a foreign order stood in the book).
        JournalWriteError: the disk refused.
    """
    # Only measures; decides nothing.
    started = time.perf_counter()
    run = _Import(sequencer, prints, options or ImportOptions())
    run.check()
    waiting = run.waiting()
    by_day: dict[CloseDate, int] = {}
    deposits = 0
    if waiting:
        deposits = run.prepare()
        total = len(prints)
        done = total - len(waiting)
        for number, one in enumerate(waiting, start=1):
            trade = run.send(one)
            day = from_day_number(trade.close_day)
            by_day[day] = by_day.get(day, 0) + 1
            if number % _GROUP_PRINTS == 0:
                sequencer.commit()
                if progress is not None:
                    progress(done + number, total)
        sequencer.commit()
    if progress is not None:
        progress(len(prints), len(prints))
    return ImportSummary(
        prints=len(prints),
        imported=len(waiting),
        skipped=len(prints) - len(waiting),
        trades_by_day=by_day,
        users=len(sequencer.engine.registry.accounts),
        deposits=deposits,
        seconds=time.perf_counter() - started,
    )


def reference_of(one: Print) -> str:
    """The client reference of a print's taker order: `spot:BTCUSDT:3735683259`."""
    return f"{one.stream}:{one.trade_id}"


@dataclass(slots=True)
class _Journalled:
    """What the journal already holds of any tape, rejected commands left out.

    Attributes:
        orders: accepted orders by client reference, with their own time.
        traded: client references of takers that traded.
        funding: references of deposits.
    """

    orders: dict[str, tuple[cmd.NewOrder, int]] = field(default_factory=dict)
    traded: set[str] = field(default_factory=set)
    funding: set[str] = field(default_factory=set)


class _Import:
    """One import, its prints and what the journal knows of them."""

    def __init__(self, sequencer: Sequencer, prints: list[Print], options: ImportOptions) -> None:
        if options.users < 2:
            raise InputError(f"{options.users} tape users", rule="a trade takes two")
        self.sequencer = sequencer
        self.engine = sequencer.engine
        self.prints = prints
        self.options = options
        self.key = self._key()
        self.journalled = self._scan()

    def _key(self) -> str:
        """The name of this import: a digest of everything that its commands depend on."""
        digest = hashlib.sha256(f"{self.options.seed} {self.options.users}\n".encode())
        for one in self.prints:
            digest.update(f"{reference_of(one)} {one.ts_ms} {one.price_ticks} {one.quantity_lots}\n".encode())
        return digest.hexdigest()[:16]

    def _scan(self) -> _Journalled:
        found = _Journalled()
        if self.sequencer.directory is None or not self.engine.last_seq:
            return found
        self.sequencer.commit()
        with JournalReader(journal_path(self.sequencer.directory)) as reader:
            # Replayed, not only read: whether a command was accepted is in the events alone.
            engine = ExchangeEngine(reader.first_day)
            for record in reader.records():
                events = engine.apply(record)
                command = record.command
                if events and isinstance(events[0], Rejected):
                    continue
                if isinstance(command, cmd.NewOrder):
                    found.orders[command.reference] = (command, record.effective_us)
                    if any(isinstance(event, Trade) for event in events):
                        found.traded.add(command.reference)
                elif isinstance(command, cmd.Deposit):
                    found.funding.add(command.reference)
        return found

    def check(self) -> None:
        """Refuse the whole import before anything is written, if any print cannot be imported."""
        first = self.engine.first_day
        opens_us = to_us(self.sequencer.cutoff_rule.instant(from_day_number(first - 1)))
        for one in self.prints:
            if one.ts_ms * 1000 < opens_us:
                raise InputError(
                    f"print {reference_of(one)} at {iso_us(from_us(one.ts_ms * 1000))} is before the first day",
                    rule=f"this book's first day is {from_day_number(first)}",
                    next_step="choose an earlier first day, or another book",
                )
            for reference, wanted in self._payloads(one):
                there = self.journalled.orders.get(reference)
                if there is not None and _payload(*there) != wanted:
                    raise InputError(
                        f"print {reference} was imported as {_payload(*there)} and now is {wanted} "
                        "(side, price ticks, quantity lots, exchange time us)",
                        rule="the same reference has the same payload",
                        next_step="find out which file is wrong; a sealed trade is only corrected by new commands",
                    )

    def _payloads(self, one: Print) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
        reference = reference_of(one)
        maker_side = Side.SELL if one.taker_side == Side.BUY else Side.BUY
        yield reference, (one.taker_side, one.price_ticks, one.quantity_lots, one.ts_ms * 1000)
        yield reference + _MAKER, (maker_side, one.price_ticks, one.quantity_lots, one.ts_ms * 1000)

    def waiting(self) -> list[Print]:
        """The prints that have not traded yet."""
        return [one for one in self.prints if reference_of(one) not in self.journalled.traded]

    def users_of(self, one: Print) -> tuple[int, int]:
        """Maker and taker of a print: by seed and name, so the same in any import."""
        key = f"{self.options.seed}:{reference_of(one)}".encode()
        word = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        count = self.options.users
        maker, word = word % count, word // count
        taker = (maker + 1 + word % (count - 1)) % count
        there = self.journalled.orders.get(reference_of(one) + _MAKER)
        if there is not None and there[0].account != maker + 1:
            # Half of this print was imported with other options: keep that maker, never trade with oneself.
            maker = there[0].account - 1
            taker = taker if taker != maker else (maker + 1) % count
        return maker + 1, taker + 1

    def prepare(self) -> int:
        """List assets and markets, open accounts, fund them; what is there is left. Returns the deposits made."""
        at_us = to_us(self.sequencer.cutoff_rule.instant(from_day_number(self.engine.first_day - 1)))
        specs = [STREAMS[name] for name in sorted({one.stream for one in self.prints})]
        registry = self.engine.registry
        for symbol in sorted({s for spec in specs for s in (spec.base, spec.quote)}, key=ASSET_IDS.__getitem__):
            if symbol not in registry.asset_by_symbol:
                self._accepted(cmd.SetAsset(ASSET_IDS[symbol], symbol, DECIMALS[symbol]), at_us)
        for spec in specs:
            if spec.symbol not in registry.market_by_symbol:
                self._accepted(_set_market(spec), at_us)
        if not self.engine.state.tiers_set:
            self._accepted(cmd.SetTier(self.options.maker_rate_ppm, self.options.taker_rate_ppm), at_us)
        for user in range(1, self.options.users + 1):
            if user not in registry.accounts:
                self._accepted(cmd.OpenAccount(user, f"u-{user:04d}"), at_us)
        made = 0
        for (account, asset), units in sorted(self._needs().items()):
            reference = f"fund:{self.key}:{account}:{asset}"
            if reference not in self.journalled.funding:
                self._accepted(cmd.Deposit(account, asset, units, reference), at_us)
                made += 1
        self.sequencer.commit()
        return made

    def _needs(self) -> dict[tuple[int, int], int]:
        """What each user locks over the prints that wait.

        A run killed while funding finds the same prints waiting; one killed later finds all its deposits made.
        """
        needs: dict[tuple[int, int], int] = {}
        rate = self.engine.state.taker_rate_ppm
        registry = self.engine.registry
        for one in self.waiting():
            market = registry.market_by_symbol[STREAMS[one.stream].symbol]
            maker, taker = self.users_of(one)
            buyer, seller = (taker, maker) if one.taker_side == Side.BUY else (maker, taker)
            bid = lock_units(market, Side.BUY, one.price_ticks, one.quantity_lots, rate)
            ask = lock_units(market, Side.SELL, one.price_ticks, one.quantity_lots, rate)
            needs[buyer, market.quote] = needs.get((buyer, market.quote), 0) + bid
            needs[seller, market.base] = needs.get((seller, market.base), 0) + ask
        return needs

    def send(self, one: Print) -> Trade:
        """Send what the journal lacks of a print's two orders; the trade must be the print."""
        market = self.engine.registry.market_by_symbol[STREAMS[one.stream].symbol].market
        maker, taker = self.users_of(one)
        at_us = one.ts_ms * 1000
        maker_side = Side.SELL if one.taker_side == Side.BUY else Side.BUY
        price, quantity, reference = one.price_ticks, one.quantity_lots, reference_of(one)
        tif = cmd.TimeInForce
        if reference + _MAKER not in self.journalled.orders:
            resting = cmd.NewOrder(maker, market, maker_side, price, quantity, tif.GTC, reference + _MAKER, at_us)
            self._accepted(resting, at_us)
        hit = cmd.NewOrder(taker, market, one.taker_side, price, quantity, tif.IOC, reference, at_us)
        trades = [event for event in self._accepted(hit, at_us) if isinstance(event, Trade)]
        if len(trades) != 1 or (trades[0].price_ticks, trades[0].quantity_lots) != (price, quantity):
            raise GateError(
                f"print {reference} at {price} ticks x {quantity} lots traded as "
                f"{[(t.price_ticks, t.quantity_lots) for t in trades]}",
                rule="the engine's trades equal the tape print by print",
                next_step="a tape's book holds nothing but the tape's orders: import it into its own book",
            )
        return trades[0]

    def _accepted(self, command: cmd.Command, at_us: int) -> list[Event]:
        events = self.sequencer.submit(command, at_us)
        for event in events:
            if isinstance(event, Rejected):
                raise GateError(
                    f"sequence {event.engine_seq}: the exchange rejected {command} as {event.reason.name}",
                    rule="a tape's own commands are all accepted",
                    next_step="import a tape into its own book",
                )
        return events


def _payload(order: cmd.NewOrder, effective_us: int) -> tuple[int, int, int, int]:
    return order.side, order.price_ticks, order.quantity_lots, effective_us


def _set_market(spec: StreamSpec) -> cmd.SetMarket:
    return cmd.SetMarket(
        spec.market_id,
        spec.symbol,
        ASSET_IDS[spec.base],
        ASSET_IDS[spec.quote],
        spec.base_units_per_lot,
        spec.quote_units_per_tick_lot,
    )
