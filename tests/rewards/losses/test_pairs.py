"""Losses on pairs, on numbers worked by hand, and what they must do whatever the numbers are."""

import math

import pytest
import torch
from torch import Tensor

from components.rewards.losses.calibration import fit_scale, starting_scale
from components.rewards.losses.pairs import bradley_terry_loss, davidson_loss, reliability_loss

LOG = math.log


def of(value: float) -> Tensor:
    return torch.tensor([value])


def bradley_terry(margin: float, preference: float, smoothing: float = 0.0) -> float:
    return float(bradley_terry_loss(of(margin), of(preference), label_smoothing=smoothing))


@pytest.mark.parametrize("preference", [0.0, 0.3, 0.5, 1.0])
def test_equal_scores_cost_log_two(preference: float) -> None:
    assert bradley_terry(0.0, preference) == pytest.approx(LOG(2))


@pytest.mark.parametrize(
    ("preference", "smoothing", "expected"),
    [
        # score_a - score_b = log 3, so P(a over b) = 3 / 4.
        (1.0, 0.0, LOG(4 / 3)),
        (0.0, 0.0, LOG(4)),
        (0.5, 0.0, (LOG(4 / 3) + LOG(4)) / 2),
        (0.7, 0.0, 0.7 * LOG(4 / 3) + 0.3 * LOG(4)),
        (1.0, 0.1, 0.95 * LOG(4 / 3) + 0.05 * LOG(4)),
        (0.5, 0.1, (LOG(4 / 3) + LOG(4)) / 2),
    ],
)
def test_bradley_terry_by_hand(preference: float, smoothing: float, expected: float) -> None:
    assert bradley_terry(LOG(3), preference, smoothing) == pytest.approx(expected, rel=1e-5)


def test_every_pair_has_its_own_loss() -> None:
    found = bradley_terry_loss(torch.tensor([LOG(3), 0.0]), torch.tensor([1.0, 0.0]))
    assert found.tolist() == pytest.approx([LOG(4 / 3), LOG(2)])


@pytest.mark.parametrize(("preference", "sign"), [(1.0, -1), (0.0, 1), (0.5, 1)])
def test_gradient_pulls_the_right_way(preference: float, sign: int) -> None:
    # Margin 2: a win of a pushes the scores apart still, a win of b and a tie pull them together.
    margin = torch.tensor([2.0], requires_grad=True)
    bradley_terry_loss(margin, of(preference)).sum().backward()
    assert margin.grad is not None
    assert float(margin.grad) * sign > 0


@pytest.mark.parametrize(
    ("margin", "preference", "smoothing", "expected"),
    [
        (0.0, 1.0, 0.0, LOG(3)),
        (0.0, 0.5, 0.0, LOG(3)),
        # Weights 2, 1/2 and 1 of a, b and a tie.
        (2 * LOG(2), 1.0, 0.0, LOG(7 / 4)),
        (2 * LOG(2), 0.0, 0.0, LOG(7)),
        (2 * LOG(2), 0.5, 0.0, LOG(7 / 2)),
        (2 * LOG(2), 0.75, 0.0, 0.75 * LOG(7 / 4) + 0.25 * LOG(7)),
        (2 * LOG(2), 1.0, 0.3, 0.8 * LOG(7 / 4) + 0.1 * LOG(7) + 0.1 * LOG(7 / 2)),
    ],
)
def test_davidson_by_hand(
    margin: float, preference: float, smoothing: float, expected: float
) -> None:
    found = davidson_loss(of(margin), of(preference), torch.tensor(0.0), label_smoothing=smoothing)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_davidson_without_ties_is_bradley_terry() -> None:
    margin, preference = torch.tensor([0.3, -2.0, 1.0]), torch.tensor([1.0, 0.0, 0.8])
    found = davidson_loss(margin, preference, torch.tensor(-60.0))
    assert torch.allclose(found, bradley_terry_loss(margin, preference))


def test_a_tie_teaches_davidson_that_ties_happen() -> None:
    log_tie = torch.tensor(0.0, requires_grad=True)
    davidson_loss(of(0.0), of(0.5), log_tie).sum().backward()
    assert log_tie.grad is not None
    # d(-log P(tie)) / d log_tie = P(tie) - 1, P(tie) = 1/3.
    assert float(log_tie.grad) == pytest.approx(-2 / 3)


@pytest.mark.parametrize(
    ("reliability", "preference", "expected"),
    [
        (0.5, 1.0, LOG(2)),
        (0.5, 0.0, LOG(2)),
        (0.9, 1.0, -LOG(0.9 * 3 / 4 + 0.1 / 4)),
        (0.9, 0.0, -LOG(0.9 / 4 + 0.1 * 3 / 4)),
        (0.9, 0.5, -(LOG(0.7) + LOG(0.3)) / 2),
    ],
)
def test_reliability_by_hand(reliability: float, preference: float, expected: float) -> None:
    found = reliability_loss(of(LOG(3)), of(preference), of(reliability))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_perfect_annotator_is_bradley_terry_and_a_liar_its_mirror() -> None:
    margin, preference = torch.tensor([0.7, -1.5]), torch.tensor([1.0, 0.4])
    sure = torch.full((2,), 1 - 1e-6)
    assert torch.allclose(
        reliability_loss(margin, preference, sure),
        bradley_terry_loss(margin, preference),
        atol=1e-4,
    )
    assert torch.allclose(
        reliability_loss(margin, preference, 1 - sure),
        bradley_terry_loss(margin, 1 - preference),
        atol=1e-4,
    )


def test_large_margins_stay_finite() -> None:
    margin = torch.tensor([200.0, -200.0], requires_grad=True)
    loss = reliability_loss(margin, torch.tensor([0.0, 1.0]), torch.full((2,), 0.9))
    assert loss.tolist() == pytest.approx([-LOG(0.1)] * 2, rel=1e-4)
    loss.sum().backward()
    assert margin.grad is not None
    assert margin.grad.isfinite().all()


def test_scale_worked_by_hand() -> None:
    # m = 0.5 and three of four prefer a: sigmoid(s / 2) = 3/4, s = 2 log 3.
    found = fit_scale(torch.full((4,), 0.5), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert found == pytest.approx(2 * LOG(3))


def test_scale_is_the_best_of_its_neighbours() -> None:
    margin = torch.tensor([0.3, -0.1, 0.2, 0.4])
    preference = torch.tensor([1.0, 1.0, 0.5, 1.0])
    found = fit_scale(margin, preference)

    def cost(scale: float) -> float:
        return float(bradley_terry_loss(scale * margin, preference).sum())

    assert cost(found) < min(cost(found * 0.9), cost(found * 1.1))


@pytest.mark.parametrize(("margin", "end"), [(0.2, 1000.0), (-0.2, 0.001)])
def test_scale_stops_at_the_ends(margin: float, end: float) -> None:
    assert fit_scale(of(margin), of(1.0)) == pytest.approx(end)


def test_the_starting_scale_worked_by_hand() -> None:
    # sigmoid(8 s) = 3/4, s = log 3 / 8; from a coin the fit is 0, and margins of 1 are left.
    margin = torch.full((4,), 8.0)
    knows = starting_scale(margin, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert knows == pytest.approx(LOG(3) / 8)
    assert starting_scale(margin, torch.tensor([1.0, 1.0, 0.0, 0.0])) == pytest.approx(1 / 8)


@pytest.mark.parametrize(("margin", "preference"), [(0.5, 0.0), (8.0, 1.0), (0.0, 1.0)])
def test_a_start_is_never_made_surer_and_never_silenced(margin: float, preference: float) -> None:
    assert starting_scale(of(margin), of(preference)) == 1.0
