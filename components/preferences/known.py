"""Which of millions of ids have been met, in a few bytes each."""

from __future__ import annotations

from array import array

START = 1 << 10


class IdSet:
    """A set of 64-bit numbers that are spread evenly, as content hashes are.

    An open table that is never more than half full: 16 to 32 bytes a number, where a set of Python
    needs a hundred.
    """

    def __init__(self) -> None:
        self._table = _empty(START)
        self._count = 0
        self._has_zero = False

    def __len__(self) -> int:
        return self._count + self._has_zero

    def __contains__(self, number: int) -> bool:
        return self._has_zero if number == 0 else self._table[self._place(number)] == number

    def add(self, number: int) -> bool:
        """Put a number in [0, 2^64) in; True where it was not there yet."""
        if number in self:
            return False
        if number == 0:
            self._has_zero = True
            return True
        self._table[self._place(number)] = number
        self._count += 1
        if 2 * self._count > len(self._table):
            self._grow()
        return True

    def _place(self, number: int) -> int:
        """Where the number lies, or the free place where it would."""
        table, mask = self._table, len(self._table) - 1
        place = number & mask
        while table[place] != 0 and table[place] != number:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        held = self._table
        self._table = _empty(2 * len(held))
        for number in held:
            if number:
                self._table[self._place(number)] = number


def _empty(size: int) -> array[int]:
    return array("Q", bytes(8 * size))
