"""D3PO's and SPO's loss against numbers worked by hand, with shapes checked at run time."""

from __future__ import annotations

import math

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from components.finetuning.experience.ranked_rollouts import pairs_in_order
from components.finetuning.losses.step_preference import preferred, step_preference_loss

CLIP = 0.1


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


def worked(ratio_w, ratio_l, beta=2.0, clip=CLIP):
    """Loss, and its gradients to the two log-ratios."""
    winner = torch.tensor(ratio_w).log().requires_grad_()
    loser = torch.tensor(ratio_l).log().requires_grad_()
    loss = checked(step_preference_loss)(winner, loser, beta, clip)
    loss.backward()
    return float(loss.detach()), winner.grad.tolist(), loser.grad.tolist()


def test_inside_of_the_band_it_is_dpo():
    # β = 2, log(1.05 / 0.95): σ = 1 / (1 + (0.95/1.05)²) = 441/802.
    loss, winner, loser = worked([1.05], [0.95])
    assert loss == pytest.approx(math.log(802 / 441), rel=1e-5)
    assert winner == pytest.approx([-2 * 361 / 802], rel=1e-5)
    assert loser == pytest.approx([2 * 361 / 802], rel=1e-5)


def test_a_loser_beyond_the_band_counts_as_its_edge_and_has_no_gradient():
    loss, winner, loser = worked([1.05], [0.5])
    assert loss == pytest.approx(math.log(85 / 49), rel=1e-5)
    assert winner == pytest.approx([-2 * 36 / 85], rel=1e-5)
    assert loser == [0.0]


def test_a_winner_beyond_the_band_has_no_gradient_either_side():
    # 1.5 becomes 1.1: σ = 1 / (1 + (0.95/1.1)²). And 0.5 becomes 0.9, though a step up would help.
    loss, winner, loser = worked([1.5], [0.95])
    assert loss == pytest.approx(math.log(1 + (0.95 / 1.1) ** 2), rel=1e-5)
    assert winner == [0.0]
    assert loser[0] > 0
    loss, winner, _ = worked([0.5], [0.95])
    assert loss == pytest.approx(math.log(1 + (0.95 / 0.9) ** 2), rel=1e-5)
    assert winner == [0.0]


def test_beyond_the_band_on_both_sides_nothing_is_learned():
    loss, winner, loser = worked([1.2], [0.7])
    assert loss == pytest.approx(math.log(1 + (0.9 / 1.1) ** 2), rel=1e-5)
    assert (winner, loser) == ([0.0], [0.0])


def test_the_loss_is_a_mean_over_pairs():
    one, _, _ = worked([1.05], [0.95])
    other, _, _ = worked([1.05], [0.5])
    both, winner, _ = worked([1.05, 1.05], [0.95, 0.5])
    assert both == pytest.approx((one + other) / 2, rel=1e-6)
    assert winner == pytest.approx([-361 / 802, -36 / 85], rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 10.0])
def test_at_the_reference_it_is_log_2_and_beta_the_slope(beta):
    loss, winner, loser = worked([1.0, 1.0], [1.0, 1.0], beta)
    assert loss == pytest.approx(math.log(2))
    assert winner == pytest.approx([-beta / 4] * 2)
    assert loser == pytest.approx([beta / 4] * 2)


def test_a_broadcast_is_refused():
    with pytest.raises(TypeCheckError):
        checked(step_preference_loss)(torch.zeros(2, 1), torch.zeros(2), 0.1, 0.1)


def test_candidates_are_told_apart_by_the_softmax_of_best_and_worst():
    scores = torch.tensor([[0.1, 1.0, -1.0], [0.0, 0.6, 0.3], [0.7, 0.7, 0.7]])
    best, worst, apart = checked(preferred)(scores, 0.3)
    assert best.tolist()[:2] == [1, 1]
    assert worst.tolist()[:2] == [2, 0]
    # tanh(1) = 0.76 and tanh(0.3) = 0.2913: the middle score does not enter.
    assert apart.tolist() == [True, False, False]
    assert preferred(scores, 0.29)[2].tolist() == [True, True, False]
    assert preferred(scores, 0.0)[2].tolist() == [True, True, False]
    two = scores[:1, 1:].softmax(1)[0]
    assert bool(preferred(scores, float(two[0] - two[1]) - 1e-4)[2][0])
    assert not bool(preferred(scores, float(two[0] - two[1]) + 1e-4)[2][0])


def test_pairs_are_all_of_a_group_that_the_order_decides():
    order = torch.tensor([1.0, 3.0, 1.0, 5.0, 5.0, 0.0])
    group = torch.tensor([0, 0, 0, 1, 1, 2])
    pairs = checked(pairs_in_order)(order, group)
    assert list(zip(pairs.winner.tolist(), pairs.loser.tolist(), strict=True)) == [(1, 0), (1, 2)]
    assert pairs.num_ties == 2
    full = pairs_in_order(torch.arange(7.0), torch.zeros(7, dtype=torch.long))
    assert (len(full.winner), full.num_ties) == (21, 0)
    assert bool((full.winner > full.loser).all())
