"""The demo exchange's custodian and chain: simulated from its journal, and told in the words of the real ones.

What belongs here: what wallets and the staking contract hold at an instant, as bodies that `engine.gateways` reads.
What does not: the exchange (see `demo_flow`), and storing readings (a collector does, as `simulated-…`).

Coins arrive 45 s before the exchange hears of a deposit, and leave 20 s before it hears that a withdrawal left, so some
are in transit at a cut-off. Every noon the hot wallets are swept into the cold ones (or filled from them) to a fifth.
Sends of own coins cost a network fee; those of tokens are paid from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from engine.clock import from_us, iso_us, to_us
from engine.exchange import commands as cmd
from engine.exchange.codec import Kind
from engine.exchange.journal import JournalReader, journal_path
from engine.gateways.bitgo import Reading, parse_bodies
from engine.gateways.chain import Block, StakedTotal
from engine.recon.sources import DEPOSIT_WALLET, ContractSource, WalletSource

READ_AFTER, FINAL_AFTER = timedelta(seconds=60), timedelta(minutes=13)
"""How long after a cut-off wallets and the chain are read; simulated time, so that equal seeds give equal readings."""

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_ARRIVES, _LEAVES = 45 * _SECOND, 20 * _SECOND
_SLOT_S = 12
_NETWORK_FEES = {"BTC": 1_410, "ETH": 42 * 10**12, "SOL": 5_000, "XRP": 12}
HOUSE_COINS = {"BTC": 5, "ETH": 50, "SOL": 500, "XRP": 20_000, "USDT": 250_000, "SHIB": 10**9, "QTRA": 10_000_000}
"""What the house brought before the first trade, in whole coins: rewards and network fees are paid from its own."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a wallet's list: `units` with the fee; pending until `done_us`, gone from `gone_us` on."""

    at_us: int
    txid: str
    units: int
    fee: int = 0
    order: str = ""
    done_us: int | None = None
    gone_us: int | None = None

    def state(self, at_us: int) -> str:
        if self.gone_us is not None and self.gone_us <= at_us:
            return "rejected" if self.order else "removed"
        return "confirmed" if self.done_us is not None and self.done_us <= at_us else "signed"


class Outside:
    """What wallets and the staking contract of a simulated exchange hold.

    Args:
        directory: of the exchange's journal.
        wallets: the simulated ones that the policy names.
        opening: the instant at which the first day begins.
        until: what happens after it is not looked at.
    """

    def __init__(self, directory: Path, wallets: Sequence[WalletSource], opening: datetime, until: datetime) -> None:
        self._opening_us, self._until_us = to_us(opening), to_us(until)
        self._wallets = {(one.wallet, one.asset): one for one in wallets}
        self._lines: dict[tuple[str, str], list[_Line]] = {key: [] for key in self._wallets}
        self._stakes: dict[str, list[tuple[int, int]]] = {}
        self._symbols: dict[int, str] = {}
        self._read(directory)
        for wallet, asset in sorted(self._wallets):
            if self._wallets[wallet, asset].kind == "house":
                self._fund(wallet, asset)
            elif self._wallets[wallet, asset].kind == "cold":
                self._sweep(wallet, asset)

    def wallet(self, source: WalletSource, since: datetime, at: datetime) -> Reading:
        """A wallet and its transfer list back to an instant, as the custodian tells them."""
        at_us = to_us(at)
        lines = sorted(
            self._lines[source.wallet, source.asset], key=lambda x: (_shown_us(x, at_us), x.txid), reverse=True
        )
        told = [line for line in lines if line.at_us <= at_us]
        page = [line for line in told if _shown_us(line, at_us) >= to_us(since)]
        confirmed = sum(line.units for line in told if line.state(at_us) == "confirmed")
        pending = sum(line.units for line in told if line.state(at_us) == "signed")
        state = {
            "id": source.wallet_id,
            "coin": source.coin,
            "label": f"simulated {source.kind} wallet",
            "balanceString": str(confirmed + pending),
            "confirmedBalanceString": str(confirmed),
            "spendableBalanceString": str(max(0, confirmed + pending)),
        }
        transfers: dict[str, Any] = {"coin": source.coin, "transfers": [_told(source, one, at_us) for one in page]}
        if len(page) < len(told):
            transfers["nextBatchPrevId"] = _id(source, page[-1]) if page else "0"
        bodies = [json.dumps(body, sort_keys=True).encode() for body in (state, transfers)]
        return replace(parse_bodies(bodies, source.coin, source.wallet_id), skew_s=0)

    def staked(self, source: ContractSource, at: datetime) -> StakedTotal:
        """What the contract holds at the last block at or before an instant; a block every 12 s."""
        time_s = int(at.timestamp()) // _SLOT_S * _SLOT_S
        units = sum(units for at_us, units in self._stakes.get(source.asset, []) if at_us < time_s * _SECOND)
        number = time_s // _SLOT_S
        parent = _hash(f"block {number - 1}")
        return StakedTotal(source.contract, units, Block(number, _hash(f"block {number} {units}"), parent, time_s))

    def _read(self, directory: Path) -> None:
        requests: dict[str, tuple[int, _Line]] = {}
        seen: set[str] = set()
        main = DEPOSIT_WALLET
        for ts_us, command in _commands(directory, self._until_us):
            match command:
                case cmd.SetAsset(asset=number, symbol=symbol):
                    self._symbols[number] = symbol
                case cmd.Deposit(asset=number, units=units, reference=name) if name not in seen:
                    seen.add(name)
                    at_us = max(ts_us - _ARRIVES, self._opening_us)
                    self._add(main, number, _Line(at_us, name, units, done_us=at_us))
                case cmd.DepositReversed(asset=number, reference=name):
                    lines = self._lines.get((main, self._symbols[number]), [])
                    lines[:] = [replace(x, gone_us=ts_us) if x.txid == name else x for x in lines]
                case cmd.Withdrawal(asset=number, units=units, reference=name) if name not in seen:
                    seen.add(name)
                    fee = _NETWORK_FEES.get(self._symbols[number], 0)
                    requests[name] = number, _Line(ts_us, _hash(f"tx {name}"), -units - fee, fee, name)
                case cmd.WithdrawalConfirmed(reference=name) if name in requests:
                    number, line = requests.pop(name)
                    self._add(main, number, replace(line, done_us=max(ts_us - _LEAVES, line.at_us)))
                case cmd.WithdrawalFailed(reference=name) if name in requests:
                    number, line = requests.pop(name)
                    self._add(main, number, replace(line, gone_us=ts_us))
                case cmd.Stake(asset=number, units=units) | cmd.Unstake(asset=number, units=units):
                    signed = units if isinstance(command, cmd.Stake) else -units
                    self._stakes.setdefault(self._symbols[number], []).append((ts_us, signed))
                case _:
                    pass
        for number, line in requests.values():
            self._add(main, number, line)

    def _add(self, wallet: str, asset: int, line: _Line) -> None:
        key = (wallet, self._symbols[asset])
        if key in self._lines:
            self._lines[key].append(line)

    def _fund(self, wallet: str, asset: str) -> None:
        units = HOUSE_COINS.get(asset, 0) * 10 ** self._wallets[wallet, asset].decimals
        at_us = self._opening_us + 60 * _SECOND
        if units:
            self._lines[wallet, asset].append(_Line(at_us, f"capital-{asset}", units, done_us=at_us))

    def _sweep(self, cold: str, asset: str) -> None:
        """Noon after noon, move what the hot wallet has beyond a fifth of both, or lacks to it."""
        hot = self._lines[DEPOSIT_WALLET, asset]
        moved = sorted(
            [(x.done_us, x.units) for x in hot if x.done_us is not None]
            + [(x.gone_us, -x.units) for x in hot if x.done_us is not None and x.gone_us is not None]
        )
        times, in_hot, in_cold, seen = [at for at, _ in moved], 0, 0, 0
        fee = _NETWORK_FEES.get(asset, 0)
        noon = self._opening_us + _DAY // 2
        while noon <= self._until_us:
            upto = bisect_right(times, noon)
            in_hot += sum(units for _, units in moved[seen:upto])
            seen = upto
            units = in_hot - (in_hot + in_cold) // 5
            if abs(units) > (in_hot + in_cold) // 20:
                sender, receiver = (hot, self._lines[cold, asset]) if units > 0 else (self._lines[cold, asset], hot)
                txid = _hash(f"sweep {asset} {noon}")
                sender.append(_Line(noon, txid, -abs(units) - fee, fee, done_us=noon))
                receiver.append(_Line(noon, txid, abs(units), done_us=noon))
                in_hot -= units + (fee if units > 0 else 0)
                in_cold += units - (fee if units < 0 else 0)
            noon += _DAY


def _commands(directory: Path, until_us: int) -> Iterator[tuple[int, cmd.Command]]:
    """The commands that move coins, in order, up to an instant."""
    kinds = (
        Kind.SET_ASSET, Kind.DEPOSIT, Kind.DEPOSIT_REVERSED, Kind.WITHDRAWAL, Kind.WITHDRAWAL_CONFIRMED,
        Kind.WITHDRAWAL_FAILED, Kind.STAKE, Kind.UNSTAKE,
    )  # fmt: skip
    with JournalReader(journal_path(directory)) as reader:
        for seq in sorted(seq for kind in kinds for seq in reader.sequences_of(kind)):
            raw = reader.raw_at(seq)
            if raw is None:
                return
            record = reader.decode(raw)
            if record.ts_us > until_us:
                return
            yield record.ts_us, record.command


def _shown_us(line: _Line, at_us: int) -> int:
    return line.done_us if line.done_us is not None and line.done_us <= at_us else line.at_us


def _told(source: WalletSource, line: _Line, at_us: int) -> dict[str, Any]:
    """A line as BitGo's API has it."""
    state = line.state(at_us)
    told: dict[str, Any] = {
        "id": _id(source, line),
        "coin": source.coin,
        "wallet": source.wallet_id,
        "txid": "" if state in ("signed", "rejected") else line.txid,
        "type": "receive" if line.units > 0 else "send",
        "valueString": str(line.units),
        "state": state,
        "date": iso_us(from_us(line.at_us)),
    }
    if state in ("confirmed", "removed"):
        told["confirmedTime"] = iso_us(from_us(_shown_us(line, at_us)))
    if line.units < 0:
        told |= {"feeString": str(line.fee), **({"sequenceId": line.order} if line.order else {})}
    return told


def _id(source: WalletSource, line: _Line) -> str:
    return _hash(f"{source.wallet_id} {line.txid} {line.units}")[2:34]


def _hash(text: str) -> str:
    return "0x" + hashlib.sha256(f"simulated {text}".encode()).hexdigest()
