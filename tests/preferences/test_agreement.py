"""Agreement between annotators, against numbers worked by hand and a published example."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import pytest

from components.preferences.agreement import (
    Level,
    cohen_kappa,
    count_answers,
    fleiss_kappa,
    krippendorff_alpha,
    label_noise,
    raw_agreement,
)


def counted(units: Sequence[Sequence[object]]) -> np.ndarray:
    """Counts of answers, a column for each distinct answer in ascending order."""
    rows = [(number, value) for number, unit in enumerate(units) for value in unit]
    values = sorted({value for _, value in rows})  # type: ignore[type-var]
    codes = [values.index(value) for _, value in rows]
    return count_answers(
        np.array([unit for unit, _ in rows], int), np.array(codes, int), len(values)
    )


def test_answers_are_counted_by_unit() -> None:
    counts = count_answers(np.array([9, 4, 9, 9]), np.array([1, 0, 1, 2]), 4)
    assert counts.tolist() == [[1, 0, 0, 0], [0, 2, 1, 0]]


def test_raw_agreement_counts_pairs_of_annotators() -> None:
    # Unit 1: (a a b) has 1 equal pair of 3; unit 2: (b b) has 1 of 1; unit 3 has no pair.
    assert raw_agreement(counted(["aab", "bb", "a"])) == 2 / 4
    assert raw_agreement(counted(["a", "b"])) is None
    assert raw_agreement(np.zeros((0, 3), int)) is None


def test_alpha_of_two_observers_and_binary_data() -> None:
    # Krippendorff (2011), section A: ten units, values 0 and 1; the published result is 0.095.
    first, second = "0100000000", "1110010100"
    counts = counted(list(zip(first, second, strict=True)))
    # By hand: 4 unequal units give 8 ordered unequal pairs; n = 20 values, 14 zeros and 6 ones.
    assert krippendorff_alpha(counts) == pytest.approx(1 - 19 * 8 / (2 * 14 * 6))
    assert krippendorff_alpha(counts) == pytest.approx(0.095, abs=5e-4)


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_four_observers_with_missing_data(level: Level, published: float) -> None:
    # Krippendorff (2011), sections C and D: twelve units, up to four observers.
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [
        [int(row[unit]) for row in observers if row[unit] != "."]
        for unit in range(len(observers[0]))
    ]
    assert krippendorff_alpha(counted(units), level) == pytest.approx(published, abs=5e-4)


def test_ordinal_distance_counts_the_answers_between() -> None:
    # 1 1 | 2 9 | 9 9: as ranks 1 has 2 answers, 2 has 1, 9 has 3, in the middles 1, 2.5, 4.5.
    # Observed 2 (2.5 - 4.5)^2 = 8; expected 2 (2*1*1.5^2 + 2*3*3.5^2 + 1*3*2^2) = 180.
    counts = counted([[1, 1], [2, 9], [9, 9]])
    assert krippendorff_alpha(counts, "ordinal") == pytest.approx(1 - 5 * 8 / 180)
    # As numbers the distances are 1, 8 and 7: 2 * 49 against 2 (2*1 + 6*64 + 3*49).
    interval = krippendorff_alpha(counts, "interval", [1, 2, 9])
    assert interval == pytest.approx(1 - 5 * 98 / 1066)
    # Without numbers of their own the columns are one apart: 2 * 1 against 2 (2*1 + 6*4 + 3*1).
    assert krippendorff_alpha(counts, "interval") == pytest.approx(1 - 5 * 2 / 58)


def test_cohens_kappa_takes_off_what_two_habits_agree_about_by_chance() -> None:
    # 20 both yes, 15 both no, 5 and 10 apart: 0.7 agreed, by chance .5 * .6 + .5 * .4 = 0.5.
    first = "y" * 25 + "n" * 25
    second = "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen_kappa(first, second) == pytest.approx((0.7 - 0.5) / 0.5)
    # Weights 0 1 4 of the quadratic kind: found 1 of 4, by chance (of 4 * 4 pairs) 28 of 16.
    quadratic = cohen_kappa([1, 2, 3, 1], [1, 3, 3, 1], "quadratic")
    assert quadratic == pytest.approx(1 - (1 / 4) / (28 / 16))
    assert cohen_kappa("aa", "aa") is None
    with pytest.raises(ValueError, match="2 answers against 1"):
        cohen_kappa("aa", "a")


def test_fleiss_kappa_of_a_table() -> None:
    # Ten units, fourteen annotators, five values; by hand P = 0.378, chance 0.213, kappa 0.210.
    table = """0 0 0 0 14;0 2 6 4 2;0 0 3 5 6;0 3 9 2 0;2 2 8 1 1;7 7 0 0 0;3 2 6 3 0;2 5 3 2 2;
        6 5 2 1 0;0 2 2 3 7"""
    units = [
        [value for value, count in enumerate(map(int, row.split())) for _ in range(count)]
        for row in table.split(";")
    ]
    assert fleiss_kappa(counted(units)) == pytest.approx(0.210, abs=5e-4)
    # Two answers a unit: 1 of 2 agree; shares 3/4 and 1/4 make chance 10/16.
    assert fleiss_kappa(counted(["aa", "ab", "c"])) == pytest.approx((0.5 - 0.625) / 0.375)
    assert fleiss_kappa(counted(["aa", "aa"])) is None
    assert fleiss_kappa(counted(["a", "b"])) is None


def test_alpha_is_one_for_full_agreement_and_nothing_for_one_value() -> None:
    assert krippendorff_alpha(counted(["aa", "bb"])) == 1.0
    assert krippendorff_alpha(counted(["ab", "ba"])) == pytest.approx(-0.5)  # 1 - 3 * 4 / 8
    assert krippendorff_alpha(counted(["aa", "aa"])) is None
    assert krippendorff_alpha(counted(["a", "b"])) is None


def test_label_noise_inverts_the_chance_of_agreement() -> None:
    # 3 of 4 decided pairs agree: e = (1 - sqrt(2 * 0.75 - 1)) / 2, and e^2 + (1 - e)^2 = 0.75.
    noise = label_noise(counted(["aa", "bb", "aa", "ab", "at", "tt"]), tie=2)
    assert noise == pytest.approx((1 - sqrt(0.5)) / 2)
    assert noise**2 + (1 - noise) ** 2 == pytest.approx(0.75)
    assert label_noise(counted(["ab", "ba", "t"]), tie=2) == 0.5
    assert label_noise(counted(["at", "b"]), tie=2) is None
