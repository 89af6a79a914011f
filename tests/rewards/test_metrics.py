"""Accuracy, its interval, and calibration, on numbers worked by hand."""

import pytest
import torch

from components.rewards.metrics import (
    Saturation,
    accuracy_by_margin,
    calibration,
    effective_count,
    pair_accuracy,
    paired_gain,
    saturation,
    wilson_interval,
)


def test_wilson_worked_by_hand() -> None:
    # z^2 = 3.84146; centre (0.9 + 0.19207) / 1.38415 = 0.78898;
    # half sqrt(0.009 + 0.0096036) * 1.95996 / 1.38415 = 0.19314.
    low, high = wilson_interval(0.9, 10)
    assert low == pytest.approx(0.5958, abs=1e-4)
    assert high == pytest.approx(0.9821, abs=1e-4)


def test_wilson_stays_inside_and_shrinks() -> None:
    assert 1 - 1e-9 < wilson_interval(1.0, 10)[1] <= 1
    assert 0 <= wilson_interval(0.0, 10)[0] < 1e-9
    wide, narrow = wilson_interval(0.6, 50), wilson_interval(0.6, 500)
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 3


def test_ties_are_left_out_and_equal_scores_are_half_right() -> None:
    margin = torch.tensor([1.0, -1.0, 0.0, 5.0])
    preference = torch.tensor([1.0, 1.0, 0.0, 0.5])
    found = pair_accuracy(margin, preference, torch.arange(4))
    assert found.count == 3
    assert found.value == pytest.approx(0.5)


def test_only_ties_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no decided pair"):
        pair_accuracy(torch.ones(2), torch.full((2,), 0.5), torch.arange(2))


def test_effective_count_worked_by_hand() -> None:
    correct = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert effective_count(correct, torch.tensor([0, 0, 1, 1])) == pytest.approx(2.0)
    assert effective_count(correct, torch.tensor([0, 1, 2, 3])) == pytest.approx(4.0)
    # Groups that balance out never count for more than their pairs.
    assert effective_count(correct, torch.tensor([0, 1, 0, 1])) == pytest.approx(4.0)


def test_pairs_of_one_prompt_widen_the_interval() -> None:
    margin = torch.tensor([1.0] * 30 + [-1.0] * 10)
    preference = torch.ones(40)
    apart = pair_accuracy(margin, preference, torch.arange(40))
    together = pair_accuracy(margin, preference, torch.arange(40) // 4)
    assert together.value == apart.value == 0.75
    assert together.high - together.low > apart.high - apart.low


def test_paired_gain_worked_by_hand() -> None:
    # d = 1 0 | 0 0: mean 1/4, group sums 1/2 and -1/2, variance 2 * (1/4 + 1/4) / 16 = 1/16.
    margin, before = torch.ones(5), torch.tensor([-1.0, 1.0, 1.0, 1.0, -1.0])
    preference = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5])
    gain = paired_gain(margin, before, preference, torch.tensor([0, 0, 1, 1, 1]))
    assert gain.value == 0.25
    assert (gain.low, gain.high) == pytest.approx((0.25 - 0.49, 0.25 + 0.49), abs=1e-3)


def test_a_paired_gain_is_the_difference_of_both_accuracies_and_surer() -> None:
    generator = torch.Generator().manual_seed(0)
    preference = (torch.rand(600, generator=generator) < 0.5).float()
    group = torch.arange(600) // 6
    before = (preference - 0.5) * 4 + torch.randn(600, generator=generator) * 2
    margin = before + (preference - 0.5) * 0.5
    gain = paired_gain(margin, before, preference, group)
    now, then = (pair_accuracy(side, preference, group) for side in (margin, before))
    assert gain.value == pytest.approx(now.value - then.value)
    assert gain.low > 0, "the same pairs tell"
    assert now.low < then.value, "two intervals do not"
    turned = paired_gain(before, margin, preference, group)
    assert (turned.low, turned.high) == pytest.approx((-gain.high, -gain.low))


def test_a_gain_that_nothing_tells_of() -> None:
    same = paired_gain(torch.ones(4), torch.ones(4), torch.ones(4), torch.arange(4))
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    alone = paired_gain(torch.ones(4), -torch.ones(4), torch.ones(4), torch.zeros(4).int())
    assert (alone.value, alone.low, alone.high) == (1.0, -1.0, 1.0)
    with pytest.raises(ValueError, match="no decided pair"):
        paired_gain(torch.ones(2), torch.ones(2), torch.full((2,), 0.5), torch.arange(2))


def test_calibration_worked_by_hand() -> None:
    # sigmoid(log 3) = 0.75, observed 1, 0 and a tie = 0.5; sigmoid(-log 9.5) = 1 / 10.5, never.
    margin = torch.log(torch.tensor([3.0, 3.0, 3.0, 1 / 9.5]))
    preference = torch.tensor([1.0, 0.0, 0.5, 0.0])
    bins, error = calibration(margin, preference, torch.arange(4))
    assert [(found.count, found.observed) for found in bins] == [(1, 0.0), (3, 0.5)]
    assert bins[1].predicted == pytest.approx(0.75)
    assert error == pytest.approx((3 * 0.25 + 1 * (1 / 10.5)) / 4, abs=1e-6)
    assert (bins[1].low, bins[1].high) == pytest.approx(wilson_interval(0.5, 3))


def test_pairs_of_one_prompt_widen_the_interval_of_a_bin() -> None:
    # Residuals +.5 +.5 | -.5 -.5: two groups count as two pairs (see effective_count).
    margin, preference = torch.full((4,), 0.2), torch.tensor([1.0, 1.0, 0.0, 0.0])
    (found,), _ = calibration(margin, preference, torch.tensor([0, 0, 1, 1]))
    assert (found.low, found.high) == pytest.approx(wilson_interval(0.5, 2))


def test_sure_and_right_is_perfectly_calibrated() -> None:
    margin, preference = torch.tensor([90.0, -90.0]), torch.tensor([1.0, 0.0])
    bins, error = calibration(margin, preference, torch.arange(2))
    assert error == pytest.approx(0.0, abs=1e-12)
    assert [found.count for found in bins] == [1, 1]


def test_accuracy_by_margin_worked_by_hand() -> None:
    # By |margin|: 0.1 wrong, 0.2 right | 1 right, 2 right | (3 a tie, left out) 4 wrong, 5 right.
    margin = torch.tensor([5.0, -0.1, 2.0, -4.0, 0.2, -1.0, 3.0])
    preference = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.5])
    found = accuracy_by_margin(margin, preference, torch.arange(7), num_bins=3)
    assert [(one.low, one.high) for one in found] == [
        pytest.approx(ends) for ends in ((0.1, 0.2), (1.0, 2.0), (4.0, 5.0))
    ]
    assert [one.accuracy.value for one in found] == [0.5, 1.0, 0.5]
    assert [one.accuracy.count for one in found] == [2, 2, 2]
    # The interval is that of the pairs alone: two of two right.
    assert found[1].accuracy.low == pytest.approx(wilson_interval(1.0, 2)[0])


def test_bins_of_margin_share_out_what_does_not_divide_and_are_never_empty() -> None:
    margin, preference = torch.arange(1.0, 7.0), torch.ones(6)
    bins = accuracy_by_margin(margin, preference, torch.arange(6))
    assert [one.accuracy.count for one in bins] == [2, 2, 1, 1]
    few = accuracy_by_margin(margin[:3], preference[:3], torch.arange(3))
    assert [(one.low, one.accuracy.count) for one in few] == [(1.0, 1), (2.0, 1), (3.0, 1)]


def test_saturation_worked_by_hand() -> None:
    # P = 0.993, 0.007 and 0.73; log 99 = 4.595 is the margin of 0.99.
    margin = torch.tensor([5.0, -5.0, 1.0])
    assert saturation(margin, torch.ones(3)) == Saturation(pytest.approx(2 / 3), 0.5)
    assert saturation(margin, torch.tensor([1.0, 0.0, 1.0])).accuracy == 1.0
    edge = torch.tensor([4.59, 4.60, -4.59, -4.60])
    assert saturation(edge, torch.ones(4)) == Saturation(0.5, 0.5)
    # A tie is no right answer, and nothing is said where there is none.
    assert saturation(margin, torch.tensor([1.0, 0.5, 1.0])) == Saturation(
        pytest.approx(2 / 3), 1.0
    )
    assert saturation(margin, torch.tensor([0.5, 0.5, 1.0])).accuracy is None
    assert saturation(torch.zeros(2), torch.ones(2)) == Saturation(0.0, None)
