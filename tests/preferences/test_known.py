"""A set of numbers that does what a set does, in less memory."""

from __future__ import annotations

import random
import sys

from components.preferences.known import IdSet


def test_it_holds_what_was_put_in_and_nothing_else() -> None:
    draw = random.Random(0)
    numbers = [draw.getrandbits(64) for _ in range(5000)] + [0, 1, 2**64 - 1, 1 << 40, 2 << 40]
    held, expected = IdSet(), set[int]()
    for number in numbers * 2:
        assert held.add(number) == (number not in expected)
        expected.add(number)
        assert len(held) == len(expected)
    assert all(number in held for number in numbers)
    assert not any(draw.getrandbits(64) in held for _ in range(5000))


def test_numbers_that_fall_on_one_place_are_kept_apart() -> None:
    held = IdSet()
    numbers = [place << 32 for place in range(1, 400)]
    assert all(held.add(number) for number in numbers)
    assert not any(held.add(number) for number in numbers)
    assert 5 not in held


def test_a_number_takes_few_bytes() -> None:
    held = IdSet()
    for number in range(1, 50_001):
        held.add(number * 0x9E3779B97F4A7C15 % 2**64)
    assert sys.getsizeof(held._table) / len(held) < 33
