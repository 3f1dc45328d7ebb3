"""Leaves of one asset's tree: validation of the balances, chunks, tags, order and padding.

What belongs here: from (account, amount) rows to the placed list of (tag, amount). Source: RESERVES.md, Commitments.
What does not: the tree above the leaves (see `tree`), and where balances come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.reserves.fields import FormatError, check_account, check_amount, u32, u64, u128
from engine.reserves.keys import KeyRing, hmac_sha256, keyed_hmac, leaf_secret

MAX_CHUNKS = 64


class LeafError(FormatError):
    """A balance or a tree size that can't be committed to."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One chunk of one account's balance, before it has a place. `tag` is 32 bytes, `amount` in smallest units."""

    account: str
    chunk: int
    tag: bytes
    amount: int


@dataclass(frozen=True)
class PlacedLeaves:
    """The full bottom level of a tree.

    Args:
        tags: 2^height tags, padding included.
        amounts: 2^height amounts in smallest units, 0 for padding.
        positions: index of every live leaf by (account, chunk).
    """

    tags: list[bytes]
    amounts: list[int]
    positions: dict[tuple[str, int], int]


def leaf_digest(tag: bytes, amount: int) -> bytes:
    """The digest of a leaf: 49 bytes hashed."""
    return hashlib.sha256(b"\x00" + tag + u128(amount)).digest()


def leaf_tag(secret: bytes, chunk: int, account: str) -> bytes:
    """The tag that ties a leaf to its account and chunk for whoever knows the leaf secret."""
    return hmac_sha256(secret, u32(chunk) + account.encode("ascii"))


def split_amount(amount: int, account: str, chunks: int, split: Callable[[bytes], bytes]) -> list[int]:
    """Cut an amount at keyed points, so that no neighbour in the tree sees a whole balance.

    Args:
        amount: smallest units.
        account: whose.
        chunks: how many, from 1.
        split: HMAC under the day's and asset's split key.

    Returns:
        The chunks; they add up to the amount, and some may be 0.
    """
    name = account.encode("ascii")
    cuts = sorted(int.from_bytes(split(u32(j) + name)[:16], "big") % (amount + 1) for j in range(1, chunks))
    return [high - low for low, high in zip([0, *cuts], [*cuts, amount], strict=True)]


def live_leaves(
    balances: Iterable[tuple[str, int]], *, asset: str, ctx: bytes, ring: KeyRing, chunks: int
) -> list[Leaf]:
    """The leaves of all accounts that hold something, sorted by (account, chunk).

    Args:
        balances: (account, total in smallest units), each account once, in any order; a total of 0 gives no leaf.
        asset: the asset's name.
        ctx: the day's context, 32 bytes.
        ring: the exchange's keys.
        chunks: leaves per account, by policy.

    Raises:
        LeafError: an account given twice.
        FormatError: a name or an amount that the format does not allow.
    """
    if not 1 <= chunks <= MAX_CHUNKS:
        raise LeafError(f"{chunks} chunks", rule=f"1 to {MAX_CHUNKS} chunks an account")
    split = keyed_hmac(ring.split_key(ctx, asset))
    leaves = []
    for account, amount in _checked(balances, asset):
        if amount == 0:
            continue
        secret = leaf_secret(ring.user_key(account), ctx, asset)
        for chunk, part in enumerate(split_amount(amount, account, chunks, split)):
            leaves.append(Leaf(account, chunk, leaf_tag(secret, chunk, account), part))
    return leaves


def _checked(balances: Iterable[tuple[str, int]], asset: str) -> list[tuple[str, int]]:
    rows: dict[str, int] = {}
    for account, amount in balances:
        check_account(account, where=asset)
        check_amount(amount, where=f"{asset}, {account}")
        if account in rows:
            raise LeafError(
                f"{asset}: account {account} is given twice",
                rule="an account has one balance per asset",
                next_step="aggregate the account's sub-balances before the tree is built",
            )
        rows[account] = amount
    return sorted(rows.items())


def place_leaves(leaves: list[Leaf], *, height: int, asset: str, ctx: bytes, ring: KeyRing) -> PlacedLeaves:
    """Pad to 2^height and put everything in the keyed order.

    Args:
        leaves: sorted by (account, chunk).
        height: of the tree; 2^height is at least the number of leaves.
        asset: the asset's name.
        ctx: the day's context, 32 bytes.
        ring: the exchange's keys.
    """
    shuffle, pad = keyed_hmac(ring.shuffle_key(ctx, asset)), keyed_hmac(ring.pad_key(ctx, asset))
    live = len(leaves)
    order = sorted((shuffle(u64(entry)), entry) for entry in range(1 << height))
    placed = PlacedLeaves([], [], {})
    for index, (_, entry) in enumerate(order):
        if entry < live:
            leaf = leaves[entry]
            placed.tags.append(leaf.tag)
            placed.amounts.append(leaf.amount)
            placed.positions[leaf.account, leaf.chunk] = index
        else:
            placed.tags.append(pad(u64(index)))
            placed.amounts.append(0)
    return placed
