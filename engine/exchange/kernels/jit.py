"""How kernels are compiled: typed wrappers around numba, cached on disk where a place is writable.

What belongs here: the decorator and the two machine instructions that Python has no word for.
What does not: any kernel.

numba keeps its cache beside the source where that is writable, else in the user's cache folder (NUMBA_CACHE_DIR goes
before both); where nothing is writable it refuses to decorate at all, and the kernel is compiled anew in each process.
It looks at the file of a kernel only, not at those of the functions compiled into it: a change of one of those would
leave the old code running. So the cache here is valid for the text of all kernels together.

Kernels allocate nothing, so numba's reference counting is off: it took half of a command's time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])
Array = npt.NDArray[Any]
"""An array of a kernel; its shape and what its numbers are stands in the kernel's docstring."""
signed: Any = np.int64
unsigned: Any = np.uint64
link: Any = np.uint32
"""Conversions. A sum of signed and unsigned 64-bit integers would be a float, so a kernel never mixes them."""


def kernel(function: F) -> F:
    """Compile a function for arrays; integers wrap, so a kernel checks what can overflow."""
    return _compiled(function, {"nogil": True, "_nrt": False})


def inlined(function: F) -> F:
    """Compile a small function that LLVM inlines into its callers."""
    return _compiled(function, {"nogil": True, "forceinline": True, "_nrt": False})


def _compiled(function: F, options: dict[str, bool]) -> F:
    compiler: Any = numba.njit
    made: Any
    try:
        made = compiler(cache=True, **options)(function)
        made._cache._cache_file._source_stamp = _digest()
    except (RuntimeError, AttributeError, OSError):
        made = compiler(**options)(function)
    return cast(F, made)


@cache
def _digest() -> str:
    """SHA-256 over the text of every kernel, of whatever subject."""
    files = sorted(Path(__file__).parents[2].glob("*/kernels/*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _multiply_high(typing_context: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two unsigned 64-bit integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


def _trailing_zeros(typing_context: Any, a: Any) -> Any:
    """How many zero bits lie below the lowest one; the argument is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


def _leading_zeros(typing_context: Any, a: Any) -> Any:
    """How many zero bits lie above the highest one; the argument is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


multiply_high = cast(Callable[[Any, Any], Any], intrinsic(_multiply_high))
trailing_zeros = cast(Callable[[Any], int], intrinsic(_trailing_zeros))
leading_zeros = cast(Callable[[Any], int], intrinsic(_leading_zeros))
