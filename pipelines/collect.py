"""The collector: reads custody and chain at a cut-off and stores what they said, raw, beside the close and not in it.

What belongs here: which sources a date needs, asking each once, and storing what came, as the collector's own login.
What does not: what a reading means for the books (see `engine.steps.wallet_balances`, `staking_totals`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from engine import clock
from engine.clock import CloseDate
from engine.close.policy import Policy
from engine.errors import ConfigError, UncheckedError, UsageError
from engine.gateways import chain_readings, custody_readings
from engine.gateways.bitgo import BitGo
from engine.gateways.chain import Chain
from engine.recon.sources import ContractSource, WalletSource, contracts_of, wallets_of
from engine.sim.custodian import FINAL_AFTER, READ_AFTER, Outside
from engine.steps.wallet_balances import LOOK_BACK
from engine.store import readings
from engine.store.connect import Connection, connect, typed_errors
from engine.store.readings import Sealed
from pipelines.books import OpenBook
from pipelines.local.files import read_secret
from pipelines.settings import Settings

TOKEN_SECRET = "bitgo_token"


@dataclass(frozen=True)
class Collected:
    """How one source of a date stands.

    Attributes:
        result: `stored`, `unchanged` since the newest reading, or why it was not read.
        changed: what it says differently from the reading that the date was sealed on.
    """

    source: str
    subject: str
    result: str
    changed: str = ""

    @property
    def read(self) -> bool:
        """Whether it could be read."""
        return self.result in ("stored", "unchanged")


@dataclass(frozen=True)
class _Asked:
    """One source to read: `ask` gives its bytes and when they are of, `changed` compares them with a sealed reading."""

    source: str
    subject: str
    ask: Callable[[], tuple[bytes, datetime]]
    changed: Callable[[Sealed, bytes], str]


def collect(opened: OpenBook, day: CloseDate) -> list[Collected]:
    """Read every wallet and contract that the policy of a date names, as of its cut-off.

    Args:
        opened: the book.
        day: a close date whose cut-off has passed; also one long past: wallets are read back along their lists.

    Raises:
        UsageError: the cut-off has not come.
        ConfigError: a source is configured and its address or token is not.
    """
    policy = opened.policy_on(day)
    cutoff = policy.cutoff_rule.instant(day)
    if cutoff > clock.now():
        raise UsageError(
            f"{day} ends at {cutoff:%Y-%m-%d %H:%M} UTC, which has not come",
            rule="readings are taken at or after the cut-off",
            next_step="collect at the cut-off or later",
        )
    asked = [*_wallets(opened, policy, day, cutoff), *_contracts(opened.settings, policy, cutoff)]
    asked += _simulated(opened, policy, day, cutoff)
    done = []
    with (
        typed_errors(),
        closing(connect(opened.servers.collector.dsn(), autocommit=True)) as collector,
        closing(connect(opened.url, autocommit=True)) as app,
    ):
        for one in asked:
            try:
                raw, at = one.ask()
            except UncheckedError as error:
                done.append(Collected(one.source, f"{one.subject}@{day}", error.what))
            else:
                result = _store(collector, one, day, raw, at)
                done.append(replace(result, changed=_told(app, one, day, raw)))
    return done


def _since(policy: Policy, day: CloseDate) -> datetime:
    return policy.cutoff_rule.instant(day - timedelta(days=1)) - LOOK_BACK


def _wallets(opened: OpenBook, policy: Policy, day: CloseDate, cutoff: datetime) -> list[_Asked]:
    wallets = [one for one in wallets_of(policy.custody_wallets) if one.provider == "bitgo"]
    if not wallets:
        return []
    settings = opened.settings
    token = (
        settings.bitgo_token.get_secret_value() if settings.bitgo_token else read_secret(settings.home, TOKEN_SECRET)
    )
    if not token:
        raise ConfigError(
            "the policy names custody wallets and there is no token to read them",
            next_step=f"set COMPLINE_BITGO_TOKEN, or write it to secrets/{TOKEN_SECRET} below the home, mode 0600",
        )
    api = BitGo(settings.bitgo_url, token)
    since = min(_since(policy, day), cutoff)

    def asking(wallet: WalletSource) -> Callable[[], tuple[bytes, datetime]]:
        def ask() -> tuple[bytes, datetime]:
            taken_at = clock.now()
            return custody_readings.envelope(wallet, api.read(wallet.coin, wallet.wallet_id, since), taken_at), taken_at

        return ask

    return [_Asked(one.source, one.subject, asking(one), _wallet_changed(one)) for one in wallets]


def _wallet_changed(wallet: WalletSource) -> Callable[[Sealed, bytes], str]:
    def changed(sealed: Sealed, raw: bytes) -> str:
        opening = sealed.opening or sealed.cutoff - timedelta(days=1)
        return custody_readings.changed(sealed.raw, raw, wallet, opening - LOOK_BACK, sealed.cutoff)

    return changed


def _total_changed(contract: str) -> Callable[[Sealed, bytes], str]:
    return lambda sealed, raw: chain_readings.changed(sealed.raw, raw, contract, sealed.cutoff)


def _contracts(settings: Settings, policy: Policy, cutoff: datetime) -> list[_Asked]:
    contracts = [one for one in contracts_of(policy.staking_contracts) if one.provider == "evm"]
    if not contracts:
        return []
    if settings.chain_url is None:
        raise ConfigError(
            "the policy names staking contracts and there is no node to ask", next_step="set COMPLINE_CHAIN_URL"
        )
    node = Chain(settings.chain_url.get_secret_value())

    def asking(contract: str) -> Callable[[], tuple[bytes, datetime]]:
        def ask() -> tuple[bytes, datetime]:
            taken_at = clock.now()
            return chain_readings.envelope(node.total_staked(contract, cutoff), taken_at), taken_at

        return ask

    return [_Asked(one.source, one.contract, asking(one.contract), _total_changed(one.contract)) for one in contracts]


def _simulated(opened: OpenBook, policy: Policy, day: CloseDate, cutoff: datetime) -> list[_Asked]:
    """The demo's custodian and chain, read in simulated time: equal seeds give equal readings, byte for byte."""
    wallets = [one for one in wallets_of(policy.custody_wallets) if one.provider == "simulated"]
    contracts = [one for one in contracts_of(policy.staking_contracts) if one.provider == "simulated"]
    if not wallets and not contracts:
        return []
    if opened.card.key_seed is None:
        raise ConfigError(
            f"the policy of {opened.book.name} names simulated wallets or contracts, and it is a real exchange",
            rule="what is simulated proves nothing of real coins",
            next_step="name the custodian and the chain that the coins are with",
        )
    read_at, final_at = cutoff + READ_AFTER, cutoff + FINAL_AFTER
    opening = policy.cutoff_rule.instant(opened.book.first_day - timedelta(days=1))
    outside = Outside(opened.files.journal_dir, wallets, opening, final_at)

    def of_wallet(wallet: WalletSource) -> _Asked:
        raw = custody_readings.envelope(wallet, outside.wallet(wallet, _since(policy, day), read_at), read_at)
        return _Asked(wallet.source, wallet.subject, lambda: (raw, read_at), _wallet_changed(wallet))

    def of_contract(one: ContractSource) -> _Asked:
        raw = chain_readings.envelope(outside.staked(one, cutoff), final_at)
        return _Asked(one.source, one.contract, lambda: (raw, final_at), _total_changed(one.contract))

    return [*map(of_wallet, wallets), *map(of_contract, contracts)]


def _store(connection: Connection, one: _Asked, day: CloseDate, raw: bytes, at: datetime) -> Collected:
    """Store a reading beside those before it, as the collector, who may do nothing else."""
    subject = f"{one.subject}@{day}"
    before = readings.newest(connection, one.source, subject)
    readings.store(connection, one.source, subject, at, raw)
    same = before is not None and _without_time(before.raw) == _without_time(raw)
    return Collected(one.source, subject, "unchanged" if same else "stored")


def _told(connection: Connection, one: _Asked, day: CloseDate, raw: bytes) -> str:
    """Tell where a date is sealed on another reading; each collection compares anew, so a kill before loses nothing."""
    subject = f"{one.subject}@{day}"
    sealed = readings.sealed_on(connection, day, one.source, subject)
    changed = one.changed(sealed, raw) if sealed is not None else ""
    if changed:
        readings.tell_changed(connection, day, one.source, subject, changed)
    return changed


def _without_time(raw: bytes) -> list[bytes]:
    return [part for part in raw.split(b", ") if b"taken_at" not in part and b"skew_s" not in part]
