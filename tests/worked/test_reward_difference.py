"""Reward differences against numbers worked by hand, gradients included."""

from __future__ import annotations

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from components.finetuning.losses import reward_difference


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


def approx(*values):
    return pytest.approx(list(values), abs=1e-6)


# One prompt, two images, two steps: image 0 has moved too far in its first step, image 1 also.
LOG_RATIO = torch.tensor([[0.3, 0.1], [-0.2, 0.0]])
LOG_RATIO_OLD = torch.tensor([[0.1, 0.1], [0.0, 0.0]])
GROUP = torch.tensor([0, 0])
CLIP = 0.1


def prdp(log_ratio, reward, *, group=GROUP, old=None, beta=2.0, clip=CLIP, reduction="sum"):
    """The loss and its gradient."""
    log_ratio = log_ratio.clone().requires_grad_()
    old = LOG_RATIO_OLD if old is None else old
    loss = checked(reward_difference.prdp_loss)(
        log_ratio, old, torch.tensor(reward), group, beta, clip, reduction
    )
    loss.backward()
    return float(loss.detach()), log_ratio.grad


def pairs_with_weights(reward, group, *, ties):
    """The pairs in order, each with its weight."""
    found = checked(reward_difference.pairs_of)(reward, group, ties=ties)
    return dict(
        zip(
            zip(found.first.tolist(), found.second.tolist(), strict=True),
            found.weight.tolist(),
            strict=True,
        )
    )


def test_pairs_are_each_unordered_pair_of_a_group_once():
    reward, group = torch.tensor([3.0, 1.0, 3.0, 5.0, 2.0]), torch.tensor([0, 0, 0, 1, 1])
    assert pairs_with_weights(reward, group, ties=False) == pytest.approx(
        {(0, 1): 1 / 4, (2, 1): 1 / 4, (3, 4): 1 / 2}
    )
    assert pairs_with_weights(reward, group, ties=True) == pytest.approx(
        {(0, 1): 1 / 6, (0, 2): 1 / 6, (2, 1): 1 / 6, (3, 4): 1 / 2}
    )


def test_a_group_without_a_pair_has_no_share_of_the_mean():
    reward, group = torch.tensor([3.0, 1.0, 4.0, 4.0, 7.0]), torch.tensor([1, 1, 0, 0, 2])
    found = reward_difference.pairs_of(reward, group, ties=False)
    assert (found.first.tolist(), found.second.tolist()) == ([0], [1])
    assert found.weight.tolist() == [1.0]


def test_groups_may_interleave():
    reward, group = torch.tensor([1.0, 5.0, 3.0, 8.0, 2.0]), torch.tensor([0, 1, 0, 1, 0])
    assert pairs_with_weights(reward, group, ties=False) == pytest.approx(
        {(2, 0): 1 / 6, (2, 4): 1 / 6, (4, 0): 1 / 6, (3, 1): 1 / 2}
    )


def test_samples_that_are_alone_have_no_pairs():
    assert not pairs_with_weights(torch.tensor([1.0, 2.0]), torch.tensor([1, 0]), ties=True)


def test_pairs_are_those_of_a_search():
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(5, (40,), generator=generator)
    reward = torch.randint(4, (40,), generator=generator).float()
    expected = {
        (i, j)
        for i in range(40)
        for j in range(40)
        if group[i] == group[j] and (reward[i] > reward[j] or (reward[i] == reward[j] and i < j))
    }
    assert set(pairs_with_weights(reward, group, ties=True)) == expected
    without = {(i, j) for i, j in expected if reward[i] != reward[j]}
    assert set(pairs_with_weights(reward, group, ties=False)) == without


def test_steps_are_summed_or_averaged():
    value = torch.tensor([[0.3, 0.1, 0.2], [1.0, -1.0, 3.0]])
    assert checked(reward_difference.over_steps)(value, "sum").tolist() == approx(0.6, 3.0)
    assert checked(reward_difference.over_steps)(value, "mean").tolist() == approx(0.2, 1.0)


def test_clipping_is_by_step_around_the_policy_that_drew():
    found = checked(reward_difference.clipped_by_step)(LOG_RATIO, LOG_RATIO_OLD, CLIP)
    assert found.flatten().tolist() == approx(0.2, 0.1, -0.1, 0.0)
    fraction = checked(reward_difference.step_clip_fraction)(LOG_RATIO, LOG_RATIO_OLD, CLIP)
    assert float(fraction) == 0.5
    # The band is around where each step was, which is not 0 and not the same for all.
    old = torch.tensor([[0.5, -0.4]])
    far = torch.tensor([[0.2, -0.1]])
    assert reward_difference.clipped_by_step(far, old, CLIP).tolist()[0] == approx(0.4, -0.3)
    # What counts is how far it moved, to either side, not where it is.
    assert float(reward_difference.step_clip_fraction(LOG_RATIO, LOG_RATIO, CLIP)) == 0.0
    assert float(reward_difference.step_clip_fraction(LOG_RATIO, LOG_RATIO_OLD, 0.25)) == 0.0


def test_residual_by_hand():
    pairs = reward_difference.pairs_of(torch.tensor([3.0, 1.0]), GROUP, ties=False)
    found = checked(reward_difference.residual)(
        torch.tensor([0.4, -0.2]), torch.tensor([3.0, 1.0]), pairs, 2.0
    )
    assert found.tolist() == approx(-0.4)


def test_prdp_where_the_clipped_branch_is_active_and_saturated():
    loss, gradient = prdp(LOG_RATIO, [3.0, 1.0])
    assert loss == pytest.approx(0.36)
    # Saturated steps have none; the other steps pull further towards the target.
    assert gradient.flatten().tolist() == approx(0.0, -1.2, 0.0, 1.2)


def test_prdp_where_the_policy_overshot_the_way_back_is_open():
    loss, gradient = prdp(LOG_RATIO, [1.2, 1.0])
    assert loss == pytest.approx(0.25)
    assert gradient.flatten().tolist() == approx(1.0, 1.0, -1.0, -1.0)


def test_prdp_that_went_the_wrong_way_may_come_back_too():
    # The same move with the rewards the other way round: pair (1, 0), residual -0.6 - 0.1.
    loss, gradient = prdp(LOG_RATIO, [1.0, 1.2])
    assert loss == pytest.approx(0.49)
    assert gradient.flatten().tolist() == approx(1.4, 1.4, -1.4, -1.4)


def test_prdp_inside_of_its_band_is_the_plain_regression():
    inside = LOG_RATIO_OLD + torch.tensor([[0.05, -0.02], [0.03, 0.01]])
    # R̂ = (0.23, 0.04): residual 0.19 - 1.
    loss, gradient = prdp(inside, [3.0, 1.0])
    assert loss == pytest.approx(0.81**2)
    assert gradient.flatten().tolist() == approx(-1.62, -1.62, 1.62, 1.62)
    assert prdp(inside, [3.0, 1.0], clip=None)[0] == pytest.approx(loss)


def test_prdp_without_clipping():
    loss, gradient = prdp(LOG_RATIO, [3.0, 1.0], clip=None)
    assert loss == pytest.approx(0.16)
    assert gradient.flatten().tolist() == approx(-0.8, -0.8, 0.8, 0.8)


def test_prdp_with_the_mean_over_steps():
    # Half of every log-ratio: R̂ = (0.2, -0.1), clipped (0.15, -0.05).
    loss, gradient = prdp(LOG_RATIO, [3.0, 1.0], reduction="mean")
    assert loss == pytest.approx((0.2 - 1) ** 2)
    assert gradient.flatten().tolist() == approx(0.0, -0.8, 0.0, 0.8)


def test_prdp_takes_the_larger_square_of_each_pair_by_itself():
    log_ratio = torch.cat([LOG_RATIO, LOG_RATIO])
    old = torch.cat([LOG_RATIO_OLD, LOG_RATIO_OLD])
    group = torch.tensor([0, 0, 1, 1])
    # 0.36 of the first prompt, 0.25 of the second.
    loss, gradient = prdp(log_ratio, [3.0, 1.0, 1.2, 1.0], group=group, old=old)
    assert loss == pytest.approx(0.305)
    assert gradient.flatten().tolist() == approx(0.0, -0.6, 0.0, 0.6, 0.5, 0.5, -0.5, -0.5)


def test_prdp_is_the_mean_over_pairs_and_then_over_prompts():
    # Three images have three pairs, two have one; without movement each is (Δ/β)².
    group = torch.tensor([0, 0, 0, 1, 1])
    zero = torch.zeros(5, 2)
    loss, gradient = prdp(zero, [3.0, 1.0, 2.0, 8.0, 2.0], group=group, old=zero)
    assert loss == pytest.approx(((1.0 + 0.25 + 0.25) / 3 + 9.0) / 2)
    # 2 · weight · (-Δ/β), summed over the pairs of an image; the same at every step.
    expected = [-2 * (1.0 + 0.5) / 6, 2 * (1.0 + 0.5) / 6, 0.0, -2 * 3.0 / 2, 2 * 3.0 / 2]
    assert gradient[:, 0].tolist() == approx(*expected)
    assert gradient[:, 1].tolist() == approx(*expected)


def test_prdp_drops_ties():
    zero = torch.zeros(3, 2)
    moved = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.05, 0.0]])
    group = torch.tensor([0, 0, 0])
    # (0, 1) is a tie, (0, 2) and (1, 2) have residual -0.05 - 1.
    loss, gradient = prdp(moved, [3.0, 3.0, 1.0], group=group, old=zero)
    assert loss == pytest.approx(1.05**2)
    assert gradient[:, 0].tolist() == approx(-1.05, -1.05, 2.1)
    loss, gradient = prdp(moved, [3.0, 3.0, 3.0], group=group, old=zero)
    assert loss == 0.0
    assert not gradient.any()


def test_prdp_is_zero_where_log_ratios_are_what_the_rewards_ask_for():
    reward = [3.0, 1.0]
    log_ratio = torch.tensor([[0.9, 0.4], [0.2, 0.1]])
    loss, gradient = prdp(log_ratio, reward, old=log_ratio)
    assert loss == pytest.approx(0.0, abs=1e-12)
    assert gradient.flatten().tolist() == approx(0.0, 0.0, 0.0, 0.0)


def test_rebel_by_hand():
    log_ratio = torch.tensor([0.4, -0.2], requires_grad=True)
    loss = checked(reward_difference.rebel_loss)(log_ratio, torch.tensor([3.0, 1.0]), GROUP, 2.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.64)
    assert log_ratio.grad.tolist() == approx(-3.2, 3.2)


def test_rebel_keeps_ties():
    log_ratio = torch.tensor([0.4, -0.2, 0.1], requires_grad=True)
    group = torch.tensor([0, 0, 0])
    loss = reward_difference.rebel_loss(log_ratio, torch.tensor([2.0, 2.0, 1.0]), group, 0.5)
    loss.backward()
    # (0, 1): 0.3 - 0; (0, 2): 0.15 - 1; (1, 2): -0.15 - 1.
    assert float(loss.detach()) == pytest.approx((0.3**2 + 0.85**2 + 1.15**2) / 3)
    assert log_ratio.grad.tolist() == approx((0.3 - 0.85) / 3, (-0.3 - 1.15) / 3, (0.85 + 1.15) / 3)


def test_explained_share_by_hand():
    reward = torch.tensor([3.0, 1.0])
    found = checked(reward_difference.explained)(torch.tensor([0.4, -0.2]), reward, GROUP, 2.0)
    assert float(found) == pytest.approx(0.84)
    for implicit, share in (([0.0, 0.0], 0.0), ([1.0, 0.0], 1.0), ([-1.0, 0.0], -3.0)):
        found = reward_difference.explained(torch.tensor(implicit), reward, GROUP, 2.0)
        assert float(found) == pytest.approx(share)


def test_explained_share_weighs_groups_and_not_pairs():
    reward, group = torch.tensor([3.0, 1.0, 2.0, 8.0, 2.0]), torch.tensor([0, 0, 0, 1, 1])
    implicit = torch.tensor([0.0, 0.0, 0.0, 3.0, 0.0])
    # Squares of Δ: mean 2 in the first group, none explained; 36 in the second, all of it by β = 2.
    found = reward_difference.explained(implicit, reward, group, 2.0)
    assert float(found) == pytest.approx(1 - 2 / 38)


def test_pair_accuracy_by_hand():
    implicit, reward = torch.tensor([1.0, 2.0, 2.0, 0.0, 4.0]), torch.tensor([3.0, 1.0, 2.0, 5, 2])
    group = torch.tensor([0, 0, 0, 1, 1])
    found = checked(reward_difference.pair_accuracy)(implicit, reward, group)
    assert float(found) == pytest.approx(1 / 12)
    assert float(reward_difference.pair_accuracy(-implicit, reward, group)) == pytest.approx(
        11 / 12
    )


def test_crd_by_hand():
    implicit = torch.tensor([0.4, -0.2], requires_grad=True)
    loss = checked(reward_difference.crd_loss)(implicit, torch.tensor([3.0, 1.0]), GROUP, 2.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.16)
    assert implicit.grad.tolist() == approx(-0.8, 0.8)


def test_crd_centres_within_groups():
    # A number of the prompt alone, on either side, changes nothing.
    group = torch.tensor([0, 1, 0, 1, 0])
    implicit = torch.tensor([0.3, -0.1, 0.5, 0.2, -0.4], requires_grad=True)
    reward = torch.tensor([1.0, 4.0, 2.0, 0.5, 3.0])
    loss = reward_difference.crd_loss(implicit, reward, group, 1.5)
    (gradient,) = torch.autograd.grad(loss, implicit)
    shift, bonus = torch.tensor([7.0, -3.0])[group], torch.tensor([-2.0, 5.0])[group]
    moved = (implicit + shift).detach().requires_grad_()
    same = reward_difference.crd_loss(moved, reward + bonus, group, 1.5)
    torch.testing.assert_close(same, loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.autograd.grad(same, moved)[0], gradient, rtol=1e-4, atol=1e-5)


def test_crd_and_the_pairs_of_prdp_are_one_regression():
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(3).repeat_interleave(4)
    reward, start = (torch.randn(12, generator=generator) for _ in range(2))
    gradients, values = [], []
    for loss_of in (reward_difference.crd_loss, reward_difference.rebel_loss):
        implicit = start.clone().requires_grad_()
        loss = loss_of(implicit, reward, group, 0.7)
        loss.backward()
        values.append(loss.detach())
        gradients.append(implicit.grad)
    # 2n / (n - 1) with n = 4.
    torch.testing.assert_close(values[1], values[0] * 8 / 3)
    torch.testing.assert_close(gradients[1], gradients[0] * 8 / 3)


def test_crd_does_not_need_a_gradient_through_the_mean():
    group = torch.tensor([0, 0, 0, 1, 1])
    implicit = torch.tensor([0.3, -0.1, 0.5, 0.2, -0.4], requires_grad=True)
    reward = torch.tensor([1.0, 4.0, 2.0, 0.5, 3.0])
    (found,) = torch.autograd.grad(
        reward_difference.crd_loss(implicit, reward, group, 1.5), implicit
    )
    fixed = torch.tensor([0.7, 0.7, 0.7, -0.2, -0.2]) / torch.tensor([3.0, 3, 3, 2, 2])
    target = reward - torch.tensor([7.0, 7.0, 7.0, 3.5, 3.5]) / torch.tensor([3.0, 3, 3, 2, 2])
    detached = (1.5 * (implicit - fixed) - target).square().mean()
    (expected,) = torch.autograd.grad(detached, implicit)
    torch.testing.assert_close(found, expected)


def test_the_weight_of_the_kl_grows_with_the_reward():
    good = torch.tensor([0.0, 0.25, 1.0])
    found = checked(reward_difference.adaptive_kl_weight)(good, 0.1, 0.02)
    assert found.tolist() == approx(0.02, 0.04, 0.1)
