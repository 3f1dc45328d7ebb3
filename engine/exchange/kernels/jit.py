"""How kernels are compiled: typed wrappers around numba, cached on disk where a place is writable.

What belongs here: the decorator and the two machine instructions that Python has no word for.
What does not: any kernel.

numba keeps its cache beside the source where that is writable, else in the user's cache folder (NUMBA_CACHE_DIR goes
before both); where nothing is writable it refuses to decorate at all, and the kernel is compiled anew in each process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a function for arrays; integers wrap, so a kernel checks what can overflow."""
    try:
        compiled: F = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        compiled = numba.njit(nogil=True)(function)
    return compiled


def inlined(function: F) -> F:
    """Compile a small function that LLVM should inline into its callers."""
    try:
        compiled: F = numba.njit(cache=True, nogil=True, forceinline=True)(function)
    except RuntimeError:
        compiled = numba.njit(nogil=True, forceinline=True)(function)
    return compiled


def _typed(function: F) -> F:
    made: F = intrinsic(function)
    return made


@_typed
def multiply_high(typing_context: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two unsigned 64-bit integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@_typed
def trailing_zeros(typing_context: Any, a: Any) -> Any:
    """How many zero bits lie below the lowest one; the argument is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@_typed
def leading_zeros(typing_context: Any, a: Any) -> Any:
    """How many zero bits lie above the highest one; the argument is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate
