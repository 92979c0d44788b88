"""A set of 64-bit keys, each with small counters, for a million members in flat memory.

An open hash table in one array: 8 bytes a slot and 2 more a counter, between a third and two
thirds full; a million keys with three counters take 29 MB. A Python set of them takes 100 MB.
"""

from __future__ import annotations

from array import array

_FIRST = 1024  # slots; a power of two
_SPREAD, _ALL = 0x9E3779B97F4A7C15, 2**64 - 1  # Fibonacci hashing
_MOST = 0xFFFF  # where a counter stays


class Roster:
    """Keys (1 to 2^64 - 1) and how often each was counted."""

    def __init__(self, counters: int = 0) -> None:
        self._keys = array("Q", bytes(8 * _FIRST))
        self._counts = [array("H", bytes(2 * _FIRST)) for _ in range(counters)]
        self._used = 0
        self._shift = 65 - _FIRST.bit_length()  # a slot is the upper bits of a spread key

    def __len__(self) -> int:
        return self._used

    def __contains__(self, key: int) -> bool:
        return self._keys[self._slot(key)] == key

    def add(self, key: int) -> bool:
        """Keep the key; False when it was there."""
        slot = self._slot(key)
        if self._keys[slot] == key:
            return False
        self._keys[slot] = key
        self._used += 1
        if 3 * self._used > 2 * len(self._keys):
            self._grow()
        return True

    def bump(self, key: int, counter: int) -> int:
        """Count one more for a key and say how many now; 0 when the key is not kept."""
        slot = self._slot(key)
        if self._keys[slot] != key:
            return 0
        counts = self._counts[counter]
        if counts[slot] < _MOST:
            counts[slot] += 1
        return counts[slot]

    def count(self, key: int, counter: int) -> int:
        slot = self._slot(key)
        return self._counts[counter][slot] if self._keys[slot] == key else 0

    @property
    def size(self) -> int:
        """Bytes that the tables take."""
        return sum(t.itemsize * len(t) for t in (self._keys, *self._counts))

    def _slot(self, key: int) -> int:
        keys = self._keys
        mask = len(keys) - 1
        slot = (key * _SPREAD & _ALL) >> self._shift
        while keys[slot] not in (0, key):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        old_keys, old_counts = self._keys, self._counts
        size = 2 * len(old_keys)
        self._shift -= 1
        self._keys = array("Q", bytes(8 * size))
        self._counts = [array("H", bytes(2 * size)) for _ in old_counts]
        for at, key in enumerate(old_keys):
            if key:
                slot = self._slot(key)
                self._keys[slot] = key
                for new, old in zip(self._counts, old_counts, strict=True):
                    new[slot] = old[at]
