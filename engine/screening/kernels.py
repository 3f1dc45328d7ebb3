"""Kernels that find the pairs of names worth scoring: all that can match, and few others.

What belongs here: building the index of segments and token pairs, and looking names up in it.
What does not: scoring (see `matcher`).

Two rules bring a pair forward. (1) Few single-character insertions and deletions lead from one name to the other: of an
entry cut into d + 1 segments one is left whole by d of them, and for one such, segment i, exactly i lie before it
(the first i up to which there are at most i), which says where it can stand. (2) Two words in common: pairs of words
are looked up. All keys lie in one table of 64-bit hashes; what a collision brings is told apart by the scoring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

F = TypeVar("F", bound=Callable[..., Any])
Array = npt.NDArray[Any]
Parts = tuple[Any, ...]
"""What a kernel is given as one: a name in its text, or the arrays of an index."""
LONGEST = 320
"""Characters of a name that the kernels take; longer ones are compared with everything."""
_WORD = 64
_BLANK = 32
_BASE = np.uint64(0x9E3779B97F4A7C15)


def _kernel(function: F) -> F:
    """Compile; cached beside the source where that is writable."""
    compiler: Any = numba.njit
    try:
        return cast(F, compiler(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast(F, compiler(nogil=True)(function))


@_kernel
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@_kernel
def _segment_key(text: np.uint64, length: int, segments: int, segment: int) -> np.uint64:
    place = np.uint64(length) << np.uint64(32) | np.uint64(segments) << np.uint64(16) | np.uint64(segment)
    return _mixed(text ^ _mixed(place + np.uint64(1)))


@_kernel
def _pair_key(one: np.uint64, other: np.uint64) -> np.uint64:
    return _mixed(_mixed(one) + np.uint64(3) * _mixed(other) + np.uint64(0x5851F42D4C957F2D))


@_kernel
def _edits(length: int, other: int, threshold: int) -> int:
    """The most edits that the threshold allows between two lengths; -1 where their difference alone is more."""
    most = (100 - threshold) * (length + other) // 100
    apart = abs(length - other)
    if apart > most:
        return -1
    return most - (most - apart) % 2


@_kernel
def _hashes(chars: Array, first: int, length: int, prefix: Array) -> None:
    """Polynomial hashes of all beginnings of a name."""
    prefix[0] = np.uint64(0)
    for k in range(length):
        prefix[k + 1] = prefix[k] * _BASE + np.uint64(chars[first + k]) + np.uint64(1)


@_kernel
def _words(chars: Array, first: int, length: int, prefix: Array, powers: Array, words: Array) -> int:
    """Hashes of a name's different words, in their order; returns how many."""
    count = 0
    start = 0
    for k in range(length + 1):
        if k == length or chars[first + k] == _BLANK:
            word = prefix[k] - prefix[start] * powers[k - start]
            if k > start and (count == 0 or words[count - 1] != word):
                words[count] = word
                count += 1
            start = k + 1
    return count


@_kernel
def powers_of_base() -> Array:
    """The powers that take a beginning off a hash."""
    powers = np.empty(LONGEST + 1, np.uint64)
    powers[0] = np.uint64(1)
    for k in range(LONGEST):
        powers[k + 1] = powers[k] * _BASE
    return powers


@_kernel
def keys_of(
    chars: Array, starts: Array, threshold: int, pairs: bool, powers: Array, keys: Array, owners: Array, fill: bool
) -> int:
    """The keys of entries; counted only, or written too.

    Args:
        chars: code points of all names one after the other.
        starts: where each begins, and the end of the last.
        threshold: per cent.
        pairs: whether pairs of words are keys too; the words are in alphabetic order then.
        powers: of the hash's base.
        keys: written: one key a row.
        owners: written: the entry it is of.
        fill: whether to write.

    Returns:
        How many keys there are.
    """
    count = 0
    prefix = np.empty(LONGEST + 1, np.uint64)
    words = np.empty(LONGEST, np.uint64)
    asked = np.zeros(LONGEST + 2, np.bool_)
    for entry in range(starts.size - 1):
        first = starts[entry]
        length = starts[entry + 1] - first
        if length == 0 or length > LONGEST:
            continue
        _hashes(chars, first, length, prefix)
        asked[:] = False
        for other in range(1, LONGEST + 1):
            edits = _edits(length, other, threshold)
            if edits >= 0:
                asked[edits + 1] = True
        for segments in range(1, length + 1):
            if not asked[segments]:
                continue
            size = length // segments
            longer = length % segments
            start = 0
            for segment in range(segments):
                end = start + size + (1 if segment >= segments - longer else 0)
                if fill:
                    text = prefix[end] - prefix[start] * powers[end - start]
                    keys[count] = _segment_key(text, length, segments, segment)
                    owners[count] = entry
                count += 1
                start = end
        many = _words(chars, first, length, prefix, powers, words) if pairs else 0
        for a in range(many):
            for b in range(a + 1, many):
                if fill:
                    keys[count] = _pair_key(words[a], words[b])
                    owners[count] = entry
                count += 1
    return count


@_kernel
def fill_table(unique: Array, table: Array) -> None:
    """Open addressing: slot -> number of the key plus one; 0 is empty. The table has a power of two of slots."""
    mask = np.uint64(table.size - 1)
    for number in range(unique.size):
        slot = unique[number] & mask
        while table[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = number + 1


@_kernel
def fill_sieve(unique: Array, sieve: Array) -> None:
    """One bit a key: most keys that are looked up are nowhere, and the bits lie in a nearer cache than the slots."""
    mask = np.uint64(64 * sieve.size - 1)
    for number in range(unique.size):
        bit = (unique[number] >> np.uint64(20)) & mask
        sieve[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@_kernel
def _find(key: np.uint64, unique: Array, table: Array, sieve: Array) -> int:
    bit = (key >> np.uint64(20)) & np.uint64(64 * sieve.size - 1)
    if not (sieve[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
        return -1
    mask = np.uint64(table.size - 1)
    slot = key & mask
    while table[slot] != 0:
        number = table[slot] - 1
        if unique[number] == key:
            return int(number)
        slot = (slot + np.uint64(1)) & mask
    return -1


@_kernel
def _ones(value: np.uint64) -> int:
    value = value - ((value >> np.uint64(1)) & np.uint64(0x5555555555555555))
    value = (value & np.uint64(0x3333333333333333)) + ((value >> np.uint64(2)) & np.uint64(0x3333333333333333))
    value = (value + (value >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((value * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_kernel
def _signature(chars: Array, first: int, length: int) -> np.uint64:
    """Two bits for each of 32 sorts of characters: one is there, two are. An edit changes one bit at most."""
    once = np.uint64(0)
    twice = np.uint64(0)
    for k in range(length):
        bit = np.uint64(1) << np.uint64(chars[first + k] & np.uint32(31))
        twice |= once & bit
        once |= bit
    return once | twice << np.uint64(32)


@_kernel
def sign(chars: Array, starts: Array, signatures: Array) -> None:
    """Write the signature of every text."""
    for text in range(starts.size - 1):
        signatures[text] = _signature(chars, starts[text], starts[text + 1] - starts[text])


@_kernel
def _in_common(masks: Array, length: int, chars: Array, first: int, last: int) -> int:
    """At least the longest common subsequence (Hyyrö's bits): characters equal in their low byte count as equal."""
    rest = ~np.uint64(0)
    for k in range(first, last):
        hit = rest & masks[chars[k] & np.uint32(255)]
        rest = (rest + hit) | (rest - hit)
    unused = ~rest
    if length < _WORD:
        unused &= (np.uint64(1) << np.uint64(length)) - np.uint64(1)
    return _ones(unused)


@_kernel
def _alike(  # noqa: C901 - one loop: what it keeps from probe to probe would go through a call each time
    query: int, text: Parts, masks: Array, prefix: Array, index: Parts, seen: Array, out: Array, count: int
) -> tuple[int, int]:
    """Write the entries that few edits lead to from a name; returns how many pairs are written, and were compared."""
    chars, first, length = text
    entry_chars, entry_starts, threshold, powers, unique, spans, owners, table, lengths, sieve, signatures = index
    compared = 0
    signature = _signature(chars, first, length)
    fits = length <= _WORD
    if fits:
        for k in range(length):
            masks[chars[first + k] & np.uint32(255)] |= np.uint64(1) << np.uint64(k)
    for other in range(1, LONGEST + 1):
        edits = _edits(other, length, threshold) if lengths[other] else -1
        start = 0
        for segment in range(edits + 1):
            span = other // (edits + 1) + (1 if segment > edits - other % (edits + 1) else 0)
            for shift in range(-segment, segment + 1, 2):
                at = start + shift
                if at < 0 or at + span > length or abs(length - other - shift) > edits - segment:
                    continue
                part = prefix[at + span] - prefix[at] * powers[span]
                found = _find(_segment_key(part, other, edits + 1, segment), unique, table, sieve)
                for k in range(spans[found], spans[found + 1]) if found >= 0 else range(0):
                    entry = owners[k]
                    if _ones(signatures[k] ^ signature) > edits or seen[0, entry] == query:
                        continue
                    seen[0, entry] = query
                    compared += 1
                    common = length
                    if fits:
                        common = _in_common(masks, length, entry_chars, entry_starts[entry], entry_starts[entry + 1])
                    if not fits or length + other - 2 * common <= edits:
                        out[count, 0], out[count, 1] = query, entry
                        count += 1
            start += span
    if fits:
        for k in range(length):
            masks[chars[first + k] & np.uint32(255)] = np.uint64(0)
    return count, compared


@_kernel
def _two_words(
    query: int, text: Parts, words: Array, prefix: Array, index: Parts, seen: Array, out: Array, count: int
) -> tuple[int, int]:
    """Write the entries that have two words in common with a name; returns what `_alike` returns."""
    chars, first, length = text
    powers, unique, spans, owners, table, sieve = index[3], index[4], index[5], index[6], index[7], index[9]
    compared = 0
    many = _words(chars, first, length, prefix, powers, words)
    for a in range(many):
        for b in range(a + 1, many):
            found = _find(_pair_key(words[a], words[b]), unique, table, sieve)
            for k in range(spans[found], spans[found + 1]) if found >= 0 else range(0):
                entry = owners[k]
                if seen[1, entry] != query:
                    seen[1, entry] = query
                    compared += 1
                    out[count, 0], out[count, 1] = query, entry
                    count += 1
    return count, compared


@_kernel
def candidates(
    chars: Array, starts: Array, first_query: int, pairs: bool, index: Parts, seen: Array, out: Array
) -> tuple[int, int, int]:
    """Pairs of a name and an entry that can match, until all names are looked up or there is no more room.

    Args:
        chars: code points of the names.
        starts: where each name begins, and the end of the last.
        first_query: the name to begin with.
        pairs: whether pairs of words are looked up too; the words are in alphabetic order then.
        index: code points of the entries; where each begins; the threshold, per cent; powers of the hash's base; keys,
            ascending; where each key's owners begin; owners, by key; slots of the keys; the lengths that entries have;
            one bit a key; the owners' signatures, by key.
        seen: two rows of -1 per entry, kept from call to call.
        out: written: name, entry; room for every entry twice at least.

    Returns:
        Names looked up so far, pairs written, pairs compared.
    """
    count = 0
    compared = 0
    most = 2 * (index[1].size - 1)
    prefix = np.empty(LONGEST + 1, np.uint64)
    words = np.empty(LONGEST, np.uint64)
    masks = np.zeros(256, np.uint64)
    for query in range(first_query, starts.size - 1):
        if count + most > out.shape[0]:
            return query, count, compared
        text = (chars, starts[query], starts[query + 1] - starts[query])
        if text[2] == 0 or text[2] > LONGEST:
            continue
        _hashes(chars, text[1], text[2], prefix)
        count, alike = _alike(query, text, masks, prefix, index, seen, out, count)
        compared += alike
        if pairs:
            count, shared = _two_words(query, text, words, prefix, index, seen, out, count)
            compared += shared
    return starts.size - 1, count, compared
