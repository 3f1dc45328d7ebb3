"""Amounts of 128 bits as arrays of two words, low one first: sums, differences, which is greater.

What belongs here: arithmetic on whole arrays, modulo 2^128. What does not: what amounts mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def plus(a: Array, b: Array) -> Array:
    """Sums of amounts, modulo 2^128."""
    low = a[..., 0] + b[..., 0]
    return np.stack((low, a[..., 1] + b[..., 1] + (low < a[..., 0]).astype(np.uint64)), axis=-1)


def minus(a: Array, b: Array) -> Array:
    """Differences of amounts, modulo 2^128."""
    borrow = (a[..., 0] < b[..., 0]).astype(np.uint64)
    return np.stack((a[..., 0] - b[..., 0], a[..., 1] - b[..., 1] - borrow), axis=-1)


def total(amounts: Array) -> Array:
    """Sums over the second axis."""
    found: Array = amounts[:, 0]
    for column in range(1, amounts.shape[1]):
        found = plus(found, amounts[:, column])
    return found


def at_most(a: Array, b: Array) -> Array:
    """Whether unsigned amounts are at most others."""
    found: Array = (a[:, 1] < b[:, 1]) | ((a[:, 1] == b[:, 1]) & (a[:, 0] <= b[:, 0]))
    return found
