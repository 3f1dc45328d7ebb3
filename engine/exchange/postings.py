"""How an engine event becomes a journal: the legs of trades and transfers.

What belongs here: one function an event kind, from integers and names to a balanced journal.
What does not: batching and writing journals (see `engine.store.settlement`), and the close's own journals.
"""

from __future__ import annotations

from engine.clock import from_day_number
from engine.exchange.events import Event, Side, Trade, Transfer, TransferKind
from engine.exchange.state import Registry
from engine.ledger.journal import (
    ADJUSTMENT_EXPENSE,
    DEPOSITS_UNALLOCATED,
    FEE_CLEARING,
    INSURANCE_FUND,
    OPENING_EQUITY,
    REWARDS_PAYABLE,
    Journal,
    Leg,
    custody,
    customer_receivable,
    in_transit,
    staked,
)

DEFAULT_WALLET = "main"
"""The custody wallet that deposits arrive in until a transfer names its own."""

_TRANSFER_KINDS = {
    TransferKind.OPENING: "opening_balance",
    TransferKind.DEPOSIT: "deposit",
    TransferKind.DEPOSIT_REVERSED: "deposit_reversed",
    TransferKind.DEPOSIT_UNALLOCATED: "deposit",
    TransferKind.UNALLOCATED_REVERSED: "deposit_reversed",
    TransferKind.WITHDRAWAL: "withdrawal",
    TransferKind.WITHDRAWAL_CONFIRMED: "withdrawal_confirmed",
    TransferKind.WITHDRAWAL_FAILED: "withdrawal_failed",
    TransferKind.STAKE: "stake",
    TransferKind.UNSTAKE: "unstake",
    TransferKind.REWARD: "reward",
    TransferKind.ADJUST: "adjust",
}
_REFERENCE_TYPES = {TransferKind.ADJUST: "admin_adjustment"}
"""Where it is not the kind's name: the source documents call a correction by this one."""


ONE_SIDED = "break:"
"""Begins the reference of a correction of the engine's side alone: the ledger was right, so nothing is posted."""

_PAID_BY = {"insurance": INSURANCE_FUND, "dust": INSURANCE_FUND, "unallocated_deposit": DEPOSITS_UNALLOCATED}
"""Reasons of adjustments that are not at the house's expense, and who bears them."""


def journal_of(event: Event, registry: Registry) -> Journal | None:
    """The journal that settles an event; none for events that move no customer balance."""
    if isinstance(event, Trade):
        return _of_trade(event, registry)
    if isinstance(event, Transfer):
        return None if is_one_sided(event) else _of_transfer(event, registry)
    return None


def is_one_sided(transfer: Transfer) -> bool:
    """Whether a transfer corrects the engine alone, by a break's own amount."""
    return transfer.kind == TransferKind.ADJUST and transfer.reference.startswith(ONE_SIDED)


def _of_trade(trade: Trade, registry: Registry) -> Journal:
    """The source's six legs, and the credits to fee clearing that make them sum to zero; asset by asset.

    The ledger's guard adds up a journal's legs by asset: legs that come in that order need no sorting.
    """
    market = registry.markets[trade.market]
    base = registry.assets[market.base].symbol
    quote = registry.assets[market.quote].symbol
    maker = registry.accounts[trade.maker_account].name
    taker = registry.accounts[trade.taker_account].name
    buyer, seller = (taker, maker) if trade.taker_side == Side.BUY else (maker, taker)
    of_base = [Leg(buyer, base, trade.base_units), Leg(seller, base, -trade.base_units)]
    of_quote = [Leg(buyer, quote, -trade.quote_units), Leg(seller, quote, trade.quote_units)]
    for payer, fee in ((maker, trade.maker_fee_units), (taker, trade.taker_fee_units)):
        if fee:
            of_quote += [Leg(payer, quote, -fee), Leg(FEE_CLEARING, quote, fee)]
    legs = of_base + of_quote if base < quote else of_quote + of_base
    return Journal(
        kind="trade",
        reference_type="trade",
        reference_id=str(trade.trade_id),
        engine_seq=trade.engine_seq,
        effective_us=trade.effective_us,
        close_date=from_day_number(trade.close_day),
        origin="engine",
        reason="fill",
        legs=tuple(legs),
    )


def _of_transfer(transfer: Transfer, registry: Registry) -> Journal:
    """Money in from custody, out to transit and from there to custody or back, staked and back, rewards, corrections.

    The counterpart of a correction is named by the reason in its reference; by default it is an expense of the house.
    """
    account = registry.accounts[transfer.account].name
    asset = registry.assets[transfer.asset].symbol
    units = transfer.units
    kind = _TRANSFER_KINDS[transfer.kind]
    wallet, transit = custody(DEFAULT_WALLET), in_transit(account)
    if transfer.kind == TransferKind.DEPOSIT_REVERSED:
        # What was spent before stays owed to others: it becomes the user's debt, never a smaller liability.
        parts = (account, units - transfer.owed_units), (customer_receivable(account), transfer.owed_units)
        legs = (Leg(wallet, asset, units), *(Leg(name, asset, -part) for name, part in parts if part))
        return _transfer_journal(transfer, kind, legs)
    receives, gives = {
        TransferKind.OPENING: (account, OPENING_EQUITY),
        TransferKind.DEPOSIT: (account, wallet),
        TransferKind.DEPOSIT_UNALLOCATED: (DEPOSITS_UNALLOCATED, wallet),
        TransferKind.UNALLOCATED_REVERSED: (wallet, DEPOSITS_UNALLOCATED),
        TransferKind.WITHDRAWAL: (transit, account),
        TransferKind.WITHDRAWAL_CONFIRMED: (wallet, transit),
        TransferKind.WITHDRAWAL_FAILED: (account, transit),
        TransferKind.STAKE: (staked(account), account),
        TransferKind.UNSTAKE: (account, staked(account)),
        TransferKind.REWARD: (account, REWARDS_PAYABLE),
        TransferKind.ADJUST: (account, payer_of_adjustment(transfer.reference)),
    }[transfer.kind]
    return _transfer_journal(transfer, kind, (Leg(receives, asset, units), Leg(gives, asset, -units)))


def _transfer_journal(transfer: Transfer, kind: str, legs: tuple[Leg, ...]) -> Journal:
    return Journal(
        kind=kind,
        reference_type=_REFERENCE_TYPES.get(transfer.kind, kind),
        reference_id=transfer.reference,
        engine_seq=transfer.engine_seq,
        effective_us=transfer.effective_us,
        close_date=from_day_number(transfer.close_day),
        origin="genesis" if transfer.kind == TransferKind.OPENING else "engine",
        reason=kind.replace("_", " "),
        legs=legs,
    )


def payer_of_adjustment(reference: str) -> str:
    """The house account on the other side of a correction, by its reference `adj/<reason>/<number>`."""
    parts = reference.split("/")
    return _PAID_BY.get(parts[1], ADJUSTMENT_EXPENSE) if len(parts) == 3 and parts[0] == "adj" else ADJUSTMENT_EXPENSE
