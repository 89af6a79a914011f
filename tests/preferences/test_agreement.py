"""Agreement between annotators, against numbers worked by hand and a published example."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import pytest

from components.preferences.agreement import krippendorff_alpha, label_noise, raw_agreement

VALUES = "123450abt"


def counts(units: Sequence[Sequence[str]]) -> np.ndarray:
    """How often each of `VALUES` was given to each unit."""
    table = [[list(unit).count(value) for value in VALUES] for unit in units]
    return np.array(table, np.int64).reshape(len(units), len(VALUES))


def test_raw_agreement_counts_pairs_of_annotators() -> None:
    # Unit 1: (a a b) has 1 equal pair of 3; unit 2: (b b) has 1 of 1; unit 3 has no pair.
    assert raw_agreement(counts(["aab", "bb", "a"])) == 2 / 4
    assert raw_agreement(counts(["a", "b"])) is None
    assert raw_agreement(counts([])) is None


def test_alpha_of_two_observers_and_binary_data() -> None:
    # Krippendorff (2011), section A: ten units, values 0 and 1; the published result is 0.095.
    first, second = "0100000000", "1110010100"
    units = list(zip(first, second, strict=True))
    # By hand: 4 unequal units give 8 ordered unequal pairs; n = 20 values, 14 zeros and 6 ones.
    assert krippendorff_alpha(counts(units)) == pytest.approx(1 - 19 * 8 / (2 * 14 * 6))
    assert krippendorff_alpha(counts(units)) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_four_observers_with_missing_data() -> None:
    # Krippendorff (2011), section C: twelve units, up to four observers; the result is 0.743.
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [
        [row[unit] for row in observers if row[unit] != "."] for unit in range(len(observers[0]))
    ]
    assert krippendorff_alpha(counts(units)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_one_for_full_agreement_and_nothing_for_one_value() -> None:
    assert krippendorff_alpha(counts(["aa", "bb"])) == 1.0
    assert krippendorff_alpha(counts(["ab", "ba"])) == pytest.approx(-0.5)  # 1 - 3 * 4 / 8
    assert krippendorff_alpha(counts(["aa", "aa"])) is None
    assert krippendorff_alpha(counts(["a", "b"])) is None


def test_label_noise_inverts_the_chance_of_agreement() -> None:
    # 3 of 4 decided pairs agree: e = (1 - sqrt(2 * 0.75 - 1)) / 2, and e^2 + (1 - e)^2 = 0.75.
    noise = label_noise(counts(["aa", "bb", "aa", "ab", "at", "tt"]), tie=VALUES.index("t"))
    assert noise == pytest.approx((1 - sqrt(0.5)) / 2)
    assert noise**2 + (1 - noise) ** 2 == pytest.approx(0.75)
    assert label_noise(counts(["ab", "ba"]), tie=VALUES.index("t")) == 0.5
    assert label_noise(counts(["at"]), tie=VALUES.index("t")) is None
