"""The loss on numbers worked by hand, and what ties do."""

import math

import pytest
import torch

from components.rewards.losses import bradley_terry_loss, fit_scale


def loss(margin: float, preference: float, label_smoothing: float = 0.0) -> float:
    zero = torch.zeros(1)
    return float(
        bradley_terry_loss(zero + margin, zero, torch.tensor([preference]), label_smoothing)
    )


@pytest.mark.parametrize("preference", [0.0, 0.5, 1.0])
def test_equal_scores_cost_log_two(preference: float) -> None:
    assert loss(0.0, preference) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("preference", "smoothing", "expected"),
    [
        # score_a - score_b = log 3, so P(a over b) = 3 / 4.
        (1.0, 0.0, -math.log(3 / 4)),
        (0.0, 0.0, -math.log(1 / 4)),
        (0.5, 0.0, -(math.log(3 / 4) + math.log(1 / 4)) / 2),
        (1.0, 0.1, -0.95 * math.log(3 / 4) - 0.05 * math.log(1 / 4)),
        (0.5, 0.1, -(math.log(3 / 4) + math.log(1 / 4)) / 2),
    ],
)
def test_worked_by_hand(preference: float, smoothing: float, expected: float) -> None:
    assert loss(math.log(3), preference, smoothing) == pytest.approx(expected, rel=1e-5)


def test_mean_over_pairs() -> None:
    margin = torch.tensor([math.log(3), 0.0])
    found = bradley_terry_loss(margin, torch.zeros(2), torch.tensor([1.0, 0.0]))
    assert float(found) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_only_the_difference_counts() -> None:
    score = torch.tensor([1.0, -2.0])
    other = torch.tensor([0.5, 3.0])
    target = torch.tensor([1.0, 0.5])
    moved = bradley_terry_loss(score + 7, other + 7, target)
    assert float(moved) == pytest.approx(float(bradley_terry_loss(score, other, target)), rel=1e-5)


def test_swapped_sides_cost_the_same() -> None:
    score, other = torch.tensor([1.0, 2.0]), torch.tensor([0.3, -1.0])
    target = torch.tensor([1.0, 0.5])
    swapped = bradley_terry_loss(other, score, 1 - target)
    assert float(swapped) == pytest.approx(float(bradley_terry_loss(score, other, target)))


@pytest.mark.parametrize(("preference", "sign"), [(1.0, -1), (0.0, 1), (0.5, 1)])
def test_gradient_pulls_the_right_way(preference: float, sign: int) -> None:
    # Scores 2 and 0: a win of a pushes them apart still, a win of b and a tie pull them together.
    score = torch.tensor([2.0], requires_grad=True)
    bradley_terry_loss(score, torch.zeros(1), torch.tensor([preference])).backward()
    assert score.grad is not None
    assert float(score.grad) * sign > 0


def test_scale_worked_by_hand() -> None:
    # m = 0.5 and three of four prefer a: sigmoid(s / 2) = 3/4, s = 2 log 3.
    found = fit_scale(torch.full((4,), 0.5), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert found == pytest.approx(2 * math.log(3))


def test_scale_is_the_best_of_its_neighbours() -> None:
    margin = torch.tensor([0.3, -0.1, 0.2, 0.4])
    preference = torch.tensor([1.0, 1.0, 0.5, 1.0])
    found = fit_scale(margin, preference)

    def cost(scale: float) -> float:
        return float(bradley_terry_loss(scale * margin, torch.zeros(4), preference))

    assert cost(found) < min(cost(found * 0.9), cost(found * 1.1))


@pytest.mark.parametrize(("margin", "end"), [(0.2, 100.0), (-0.2, 0.01)])
def test_scale_stops_at_the_ends(margin: float, end: float) -> None:
    assert fit_scale(torch.tensor([margin]), torch.tensor([1.0])) == pytest.approx(end)
