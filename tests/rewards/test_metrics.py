"""Accuracy, its interval, and calibration, on numbers worked by hand."""

import pytest
import torch

from components.rewards.metrics import (
    calibration,
    effective_count,
    pair_accuracy,
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


def test_calibration_worked_by_hand() -> None:
    # sigmoid(log 3) = 0.75, observed 1, 0 and a tie = 0.5; sigmoid(-log 9) = 0.1, observed 0.
    margin = torch.log(torch.tensor([3.0, 3.0, 3.0, 1 / 9.5]))
    bins, error = calibration(margin, torch.tensor([1.0, 0.0, 0.5, 0.0]))
    assert [(found.count, found.observed) for found in bins] == [(1, 0.0), (3, 0.5)]
    assert bins[1].predicted == pytest.approx(0.75)
    assert error == pytest.approx((3 * 0.25 + 1 * (1 / 10.5)) / 4, abs=1e-6)


def test_sure_and_right_is_perfectly_calibrated() -> None:
    bins, error = calibration(torch.tensor([90.0, -90.0]), torch.tensor([1.0, 0.0]))
    assert error == pytest.approx(0.0, abs=1e-12)
    assert [found.count for found in bins] == [1, 1]
