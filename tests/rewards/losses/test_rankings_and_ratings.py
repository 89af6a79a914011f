"""Losses on rankings, ratings and prompts, on numbers worked by hand."""

import math

import pytest
import torch

from components.rewards.losses.pairs import bradley_terry_loss
from components.rewards.losses.prompts import prompt_classification_loss
from components.rewards.losses.rankings import plackett_luce_loss
from components.rewards.losses.ratings import (
    binary_loss,
    ordinal_loss,
    rising,
    squared_error_loss,
)

LOG = math.log


def plackett_luce(scores: list[float], ranks: list[int]) -> float:
    together = torch.zeros(len(scores), dtype=torch.long)
    return float(plackett_luce_loss(torch.tensor(scores), torch.tensor(ranks), together))


@pytest.mark.parametrize(
    ("scores", "ranks", "expected"),
    [
        ([0.0, 0.0, 0.0], [0, 1, 2], LOG(6)),
        ([0.0, 0.0, 0.0], [0, 0, 1], 2 * LOG(3)),
        ([LOG(2), 0.0], [0, 1], LOG(3 / 2)),
        ([LOG(2), 0.0], [1, 0], LOG(3)),
        # Strengths 3, 2, 1: 3/6 * 2/3.
        ([LOG(3), LOG(2), 0.0], [0, 1, 2], LOG(3)),
        # The same order by other numbers, and told in another sequence.
        ([0.0, LOG(3), LOG(2)], [9, 1, 4], LOG(3)),
    ],
)
def test_plackett_luce_by_hand(scores: list[float], ranks: list[int], expected: float) -> None:
    assert plackett_luce(scores, ranks) == pytest.approx(expected, rel=1e-5)


def test_two_pictures_are_bradley_terry() -> None:
    margin = bradley_terry_loss(torch.tensor([1.3]), torch.tensor([1.0]))
    assert plackett_luce([1.3, 0.0], [0, 1]) == pytest.approx(float(margin))


def test_all_orders_together_are_certain() -> None:
    scores = [0.4, -1.0, 2.0]
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    total = sum(math.exp(-plackett_luce(scores, list(order))) for order in orders)
    assert total == pytest.approx(1.0)


def test_rankings_do_not_see_one_another() -> None:
    score = torch.tensor([LOG(2), 5.0, 0.0, 5.0])
    found = plackett_luce_loss(score, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    assert found.tolist() == pytest.approx([LOG(3 / 2), LOG(2)])


def test_squared_error_by_hand() -> None:
    found = squared_error_loss(torch.tensor([0.25, 1.0]), torch.tensor([1.0, 0.0]))
    assert found.tolist() == pytest.approx([0.5625, 1.0])


def test_binary_by_hand() -> None:
    found = binary_loss(torch.tensor([LOG(3) + 1] * 2), torch.tensor([1.0, 0.0]), torch.tensor(1.0))
    assert found.tolist() == pytest.approx([LOG(4 / 3), LOG(4)])


def test_ordinal_by_hand() -> None:
    thresholds = torch.tensor([-LOG(3), LOG(3)])
    found = ordinal_loss(torch.zeros(3), torch.tensor([0, 1, 2]), thresholds)
    assert found.tolist() == pytest.approx([LOG(4), LOG(2), LOG(4)], rel=1e-5)


def test_one_threshold_is_good_or_bad() -> None:
    score, level = torch.tensor([0.3, -2.0, 1.0]), torch.tensor([1, 0, 0])
    threshold = torch.tensor([0.4])
    expected = binary_loss(score, level.float(), threshold[0])
    assert torch.allclose(ordinal_loss(score, level, threshold), expected)


def test_levels_far_out_stay_finite() -> None:
    score = torch.tensor([60.0, -60.0], requires_grad=True)
    loss = ordinal_loss(score, torch.tensor([0, 2]), torch.tensor([-1.0, 1.0]))
    # -log sigmoid(-61) = 61.
    assert loss.tolist() == pytest.approx([61.0, 61.0])
    loss.sum().backward()
    assert score.grad is not None
    assert score.grad.tolist() == pytest.approx([1.0, -1.0])


def test_levels_of_one_score_are_certain_together() -> None:
    thresholds = rising(torch.tensor([-1.0, 0.3, -2.0]))
    chances = torch.exp(-ordinal_loss(torch.full((4,), 0.7), torch.arange(4), thresholds))
    assert float(chances.sum()) == pytest.approx(1.0)


def test_thresholds_rise_whatever_their_steps_are() -> None:
    assert rising(torch.zeros(3)).tolist() == pytest.approx([0.0, LOG(2), 2 * LOG(2)])
    found = rising(torch.tensor([3.0, -9.0, -9.0]))
    assert (found.diff() > 0).all()


def test_prompt_classification_by_hand() -> None:
    score = torch.tensor([[2 * LOG(3), 0.0], [0.0, 0.0]])
    first = prompt_classification_loss(score, torch.tensor([True, False]))
    assert float(first) == pytest.approx(0.5 * LOG(4 / 3), rel=1e-5)
    both = prompt_classification_loss(score, torch.tensor([True, True]))
    assert float(both) == pytest.approx(0.5 * (LOG(4 / 3) + LOG(2)) / 2, rel=1e-5)
    none = prompt_classification_loss(score, torch.tensor([False, False]))
    assert float(none) == 0.0


def test_temperature_divides_and_weight_multiplies() -> None:
    score = torch.tensor([[LOG(3), 0.0]])
    found = prompt_classification_loss(score, torch.tensor([True]), temperature=1.0, weight=2.0)
    assert float(found) == pytest.approx(2 * LOG(4 / 3), rel=1e-5)
