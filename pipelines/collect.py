"""The collector: reads custody and chain at a cut-off and stores what they said, raw, beside the close and not in it.

What belongs here: which sources a date needs, asking each once, and storing what came, as the collector's own login.
What does not: what a reading means for the books (see `engine.steps.wallet_balances`, `staking_totals`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

from engine import clock
from engine.clock import CloseDate
from engine.close.policy import Policy
from engine.errors import ConfigError, UncheckedError, UsageError
from engine.gateways import chain_readings, custody_readings
from engine.gateways.bitgo import BitGo
from engine.gateways.chain import Chain
from engine.recon.sources import contracts_of, wallets_of
from engine.steps.wallet_balances import LOOK_BACK
from engine.store import readings
from engine.store.connect import connect, typed_errors
from pipelines.books import OpenBook
from pipelines.local.files import read_secret
from pipelines.settings import Settings

TOKEN_SECRET = "bitgo_token"


@dataclass(frozen=True)
class Collected:
    """How one source of a date stands: `stored`, `unchanged` since the newest reading, or why it was not read."""

    source: str
    subject: str
    result: str

    @property
    def read(self) -> bool:
        """Whether it could be read."""
        return self.result in ("stored", "unchanged")


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
    asked = _wallets(opened.settings, policy, day, cutoff) + _contracts(opened.settings, policy, cutoff)
    done = []
    for source, subject, ask in asked:
        try:
            done.append(_store(opened, source, f"{subject}@{day}", ask()))
        except UncheckedError as error:
            done.append(Collected(source, f"{subject}@{day}", error.what))
    return done


_Ask = Callable[[], tuple[bytes, datetime]]


def _wallets(settings: Settings, policy: Policy, day: CloseDate, cutoff: datetime) -> list[tuple[str, str, _Ask]]:
    wallets = wallets_of(policy.custody_wallets)
    if not wallets:
        return []
    token = (
        settings.bitgo_token.get_secret_value() if settings.bitgo_token else read_secret(settings.home, TOKEN_SECRET)
    )
    if not token:
        raise ConfigError(
            "the policy names custody wallets and there is no token to read them",
            next_step=f"set COMPLINE_BITGO_TOKEN, or write it to secrets/{TOKEN_SECRET} below the home, mode 0600",
        )
    api = BitGo(settings.bitgo_url, token)
    since = policy.cutoff_rule.instant(day - timedelta(days=1)) - LOOK_BACK

    def asking(number: int) -> _Ask:
        def ask() -> tuple[bytes, datetime]:
            wallet = wallets[number]
            taken_at = clock.now()
            reading = api.read(wallet.coin, wallet.wallet_id, min(since, cutoff))
            return custody_readings.envelope(wallet, reading, taken_at), taken_at

        return ask

    return [(custody_readings.SOURCE, wallet.subject, asking(n)) for n, wallet in enumerate(wallets)]


def _contracts(settings: Settings, policy: Policy, cutoff: datetime) -> list[tuple[str, str, _Ask]]:
    contracts = contracts_of(policy.staking_contracts)
    if not contracts:
        return []
    if settings.chain_url is None:
        raise ConfigError(
            "the policy names staking contracts and there is no node to ask", next_step="set COMPLINE_CHAIN_URL"
        )
    node = Chain(settings.chain_url.get_secret_value())

    def asking(contract: str) -> _Ask:
        def ask() -> tuple[bytes, datetime]:
            taken_at = clock.now()
            return chain_readings.envelope(node.total_staked(contract, cutoff), taken_at), taken_at

        return ask

    return [(chain_readings.SOURCE, one.contract, asking(one.contract)) for one in contracts]


def _store(opened: OpenBook, source: str, subject: str, taken: tuple[bytes, datetime]) -> Collected:
    raw, at = taken
    with closing(connect(opened.servers.collector.dsn(), autocommit=True)) as connection, typed_errors():
        before = readings.newest(connection, source, subject)
        readings.store(connection, source, subject, at, raw)
    same = before is not None and _without_time(before.raw) == _without_time(raw)
    return Collected(source, subject, "unchanged" if same else "stored")


def _without_time(raw: bytes) -> list[bytes]:
    return [part for part in raw.split(b", ") if b"taken_at" not in part and b"skew_s" not in part]
