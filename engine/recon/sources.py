"""Which wallets and contracts outside are read for a book, as its policy names them.

What belongs here: the two records and the check of a policy's rows.
What does not: reading them (see `engine.gateways`), and comparing (see the gates in the schema).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError

DEPOSIT_WALLET = "main"
"""The wallet whose ledger account engine deposits and withdrawals are booked to."""

KINDS = ("hot", "cold", "house")
"""`house`: the house's own coins; what comes to such a wallet from outside is capital, and owed to nobody."""

CUSTODIANS = {"bitgo": "bitgo", "simulated": "simulated-custody"}
CHAINS = {"evm": "evm", "simulated": "simulated-chain"}
"""Who a wallet or a contract is read from, and the source that its readings are stored under."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_ID = re.compile(r"[!-~]{1,80}")
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")


@dataclass(frozen=True)
class WalletSource:
    """One wallet of one asset at a custodian.

    Attributes:
        wallet: as the ledger's account `custody:<wallet>` names it.
        asset: as the books name it.
        kind: `hot`, `cold` or `house`.
        provider: whose API it is read by: `bitgo`; `simulated` is the demo's own.
        coin: as the provider names the asset.
        wallet_id: as the provider names the wallet.
        decimals: of the provider's smallest unit.
    """

    wallet: str
    asset: str
    kind: str
    provider: str
    coin: str
    wallet_id: str
    decimals: int

    @property
    def subject(self) -> str:
        """As readings and gates name it."""
        return f"{self.wallet}/{self.asset}"

    @property
    def source(self) -> str:
        """The source that its readings are stored under."""
        return CUSTODIANS[self.provider]


@dataclass(frozen=True)
class ContractSource:
    """One staking contract.

    Attributes:
        contract: its address.
        asset: what is staked in it.
        decimals: of that asset on chain.
        provider: what its chain is asked by: `evm`, a node; `simulated` is the demo's own.
    """

    contract: str
    asset: str
    decimals: int
    provider: str = "evm"

    @property
    def source(self) -> str:
        """The source that its readings are stored under."""
        return CHAINS[self.provider]


def wallets_of(rows: Sequence[Sequence[Any]]) -> tuple[WalletSource, ...]:
    """The wallets that a policy names.

    Raises:
        ConfigError: a row is malformed, or a wallet or a custodian's id comes twice.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        if len(row) != 7 or not all(isinstance(part, str) for part in row[:6]) or not _is_decimals(row[6]):
            raise _wrong(f"row {number} of custody_wallets is not (wallet, asset, kind, provider, coin, id, decimals)")
        one = WalletSource(*row)
        if not _NAME.fullmatch(one.wallet) or one.kind not in KINDS or one.provider not in CUSTODIANS:
            raise _wrong(f"row {number} of custody_wallets: wallet {one.wallet!r}, kind {one.kind!r}, {one.provider!r}")
        if not all(_ID.fullmatch(part) for part in (one.asset, one.coin, one.wallet_id)) or "/" in one.wallet_id:
            raise _wrong(f"row {number} of custody_wallets has an empty or odd asset, coin or id")
        found.append(one)
    for what in ([w.subject for w in found], [f"{w.provider} {w.coin} {w.wallet_id}" for w in found]):
        twice = sorted({name for name in what if what.count(name) > 1})
        if twice:
            raise _wrong(f"custody_wallets names {twice[0]} twice")
    if any(w.wallet == DEPOSIT_WALLET and w.kind == "house" for w in found):
        raise _wrong(f"custody_wallets: wallet {DEPOSIT_WALLET!r} holds customers' coins and is not of kind 'house'")
    lone = sorted({w.asset for w in found} - {w.asset for w in found if w.wallet == DEPOSIT_WALLET})
    if lone:
        raise _wrong(f"custody_wallets has no wallet {DEPOSIT_WALLET!r} for {', '.join(lone)}")
    return tuple(found)


def contracts_of(rows: Sequence[Sequence[Any]]) -> tuple[ContractSource, ...]:
    """The staking contracts that a policy names.

    Raises:
        ConfigError: a row is malformed, or a contract comes twice.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        if len(row) not in (3, 4) or not all(isinstance(part, str) for part in row[:2]) or not _is_decimals(row[2]):
            raise _wrong(f"row {number} of staking_contracts is not (contract, asset, decimals[, provider])")
        if len(row) == 4 and row[3] not in CHAINS:
            raise _wrong(f"row {number} of staking_contracts: provider {row[3]!r} is none of {', '.join(CHAINS)}")
        if not _ADDRESS.fullmatch(row[0]) or not _ID.fullmatch(row[1]):
            raise _wrong(f"row {number} of staking_contracts: {row[0]!r} is no lower-case address, or the asset is odd")
        found.append(ContractSource(*row))
    if len({one.contract for one in found}) != len(found):
        raise _wrong("staking_contracts names a contract twice")
    return tuple(found)


def _is_decimals(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 18


def _wrong(what: str) -> ConfigError:
    return ConfigError(what, next_step="correct the policy file")
