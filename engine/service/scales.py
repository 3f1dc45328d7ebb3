"""Between an exchange's integers and the texts of its messages: prices, quantities, amounts, names.

What belongs here: exact conversion both ways, and finding accounts, markets and assets by what a message calls them.
What does not: the fields of a message (see `messages`, `outbound`).
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from engine.errors import InputError
from engine.exchange.state import Market, Registry
from engine.money import to_units
from engine.service.messages import RefusedMessageError
from engine.store.settlement_rows import tick_size

MAX_INT64 = 2**63 - 1
PRICE_DECIMALS = 18


@lru_cache(maxsize=10_000)
def plain(units: int, decimals: int) -> str:
    """Smallest units as plain text: no exponent, no trailing zeros. A market's prices come again and again."""
    if units < 0:
        return "-" + plain(-units, decimals)
    whole, rest = divmod(units, 10**decimals)
    return f"{whole}.{str(rest).rjust(decimals, '0').rstrip('0')}" if rest else str(whole)


class Scales:
    """Texts and integers of one exchange.

    Args:
        registry: of the engine; it may grow.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._ticks: dict[int, int] = {}

    def tick(self, market: Market) -> int:
        """The price of one tick in units of 10^-18."""
        found = self._ticks.get(market.market)
        if found is None:
            assets = self.registry.assets
            found = self._ticks[market.market] = tick_size(
                market.quote_units_per_tick_lot,
                assets[market.quote].decimals,
                market.base_units_per_lot,
                assets[market.base].decimals,
                market.symbol,
            )
        return found

    def price(self, market: Market, ticks: int) -> str:
        """A price as text."""
        return plain(ticks * self.tick(market), PRICE_DECIMALS)

    def quantity(self, market: Market, lots: int) -> str:
        """A quantity as text, in the base asset."""
        return plain(lots * market.base_units_per_lot, self.registry.assets[market.base].decimals)

    def amount(self, asset: int, units: int) -> str:
        """An amount of an asset as text."""
        return plain(units, self.registry.assets[asset].decimals)

    def ticks(self, market: Market, price: Decimal) -> int:
        """A price in ticks.

        Raises:
            RefusedMessageError: it is between two ticks, or no record holds it.
        """
        return _whole(price, PRICE_DECIMALS, self.tick(market), "price", "tick")

    def lots(self, market: Market, quantity: Decimal) -> int:
        """A quantity in lots.

        Raises:
            RefusedMessageError: it is no whole number of lots, or no record holds it.
        """
        decimals = self.registry.assets[market.base].decimals
        return _whole(quantity, decimals, market.base_units_per_lot, "quantity", "lot")

    def units(self, asset: int, amount: Decimal) -> int:
        """A positive amount of an asset in smallest units.

        Raises:
            RefusedMessageError: it is not positive, finer than the asset, or no record holds it.
        """
        found = _whole(amount, self.registry.assets[asset].decimals, 1, "amount", "smallest unit")
        if found <= 0:
            raise RefusedMessageError("invalid_amount", f"amount {amount:f} is not positive")
        return found

    def account(self, user: str | int) -> int:
        """The number of a user given by name or number; 0, which is nobody's, for a name that nobody has."""
        if isinstance(user, int):
            return user
        found = self.registry.account_by_name.get(user)
        if found is not None:
            return found.account
        return int(user) if user.isdigit() and int(user) <= 2**64 - 1 else 0

    def name(self, account: int) -> str:
        """The name of an account, or the number that was asked with."""
        found = self.registry.accounts.get(account)
        return str(account) if found is None else found.name


@lru_cache(maxsize=10_000)
def _whole(value: Decimal, decimals: int, step: int, name: str, what: str) -> int:
    try:
        units = to_units(value, decimals, record=name)
    except InputError as error:
        raise RefusedMessageError(f"invalid_{name}", error.what) from None
    count, rest = divmod(units, step)
    if rest:
        raise RefusedMessageError(f"invalid_{name}", f"{name} {value:f} is no whole number of {what}s of the market")
    if name != "amount" and abs(count) > MAX_INT64:
        raise RefusedMessageError("too_large", f"{name} {value:f} is beyond 2^63 {what}s")
    return count
