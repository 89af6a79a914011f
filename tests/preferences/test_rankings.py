"""Rankings by hand: their pairs, and how far two of them agree."""

from __future__ import annotations

from math import sqrt

import pytest

from components.preferences.rankings import (
    kendall_tau,
    ranking_agreement,
    ranking_pairs,
    spearman,
)


def test_the_pairs_of_a_ranking_keep_its_ties() -> None:
    assert ranking_pairs([2, 1, 2]) == [(0, 1, "b"), (0, 2, "tie"), (1, 2, "a")]
    assert ranking_pairs([1]) == []


def test_agreement_counts_pairs_that_both_decide() -> None:
    # (0, 1): three of three; (0, 2): three of three; (1, 2): none of one, the third ties it.
    assert ranking_agreement([[[1, 2, 3], [1, 3, 2], [1, 2, 2]]]) == pytest.approx(6 / 7)
    # A second prompt, on which two people say the opposite, adds one pair.
    groups = [[[1, 2, 3], [1, 3, 2], [1, 2, 2]], [[1, 2], [2, 1]]]
    assert ranking_agreement(groups) == pytest.approx(6 / 8)
    assert ranking_agreement([[[1, 2]]]) is None
    with pytest.raises(ValueError, match="inhomogeneous"):
        ranking_agreement([[[1, 2], [1, 2, 3]]])


def test_correlations_with_ties() -> None:
    first, second = [1, 2, 2, 4], [1, 3, 2, 3]
    # Six pairs: 4 alike, 0 apart, one tied in each: 4 / sqrt(5 * 5).
    assert kendall_tau(first, second) == pytest.approx(4 / 5)
    # Places 1 2.5 2.5 4 and 1 3.5 2 3.5: the covariance is 15 / 4, both spreads 4.5.
    assert spearman(first, second) == pytest.approx(3.75 / 4.5)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == spearman([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / sqrt(2 * 3))


def test_a_ranking_that_ties_everything_says_nothing() -> None:
    assert kendall_tau([1, 1], [1, 2]) is None and spearman([1, 2], [3, 3]) is None
    with pytest.raises(ValueError, match="rankings of 2 and of 3 images"):
        spearman([1, 2], [1, 2, 3])
