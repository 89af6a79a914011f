"""The losses of fine-tuning against numbers worked by hand, with shapes checked at run time."""

from __future__ import annotations

import math

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from components.diffusion import LatentGaussian
from components.finetuning.losses import advantages as advantage_module
from components.finetuning.losses import kl, policy_gradient, weighted_denoising

# log(2) and -log(2): ratios of 2 and 1/2, each with a good and a bad advantage.
LOG_RATIO = torch.tensor([2.0, 2.0, 0.5, 0.5]).log()
ADVANTAGE = torch.tensor([1.0, -1.0, 1.0, -1.0])
CLIP = 0.2


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


def gradient(function) -> list[float]:
    """d loss / d log_ratio at the four corners, times 4 to undo the mean."""
    log_ratio = LOG_RATIO.clone().requires_grad_()
    checked(function)(log_ratio, ADVANTAGE, CLIP).backward()
    return (4 * log_ratio.grad).tolist()


def test_ppo_at_its_four_corners():
    # max(-2, -1.2), max(2, 1.2), max(-0.5, -0.8), max(0.5, 0.8), one sample at a time.
    expected = [-1.2, 2.0, -0.5, 0.8]
    for log_ratio, advantage, value in zip(LOG_RATIO, ADVANTAGE, expected, strict=True):
        loss = policy_gradient.ppo_loss(log_ratio[None], advantage[None], CLIP)
        assert float(loss) == pytest.approx(value)
    loss = checked(policy_gradient.ppo_loss)(LOG_RATIO, ADVANTAGE, CLIP)
    assert float(loss) == pytest.approx(0.275)


def test_ppo_keeps_the_gradients_that_lead_back():
    # d(-A ρ)/d(log ρ) = -A ρ where the unclipped branch is taken.
    assert gradient(policy_gradient.ppo_loss) == pytest.approx([0.0, 2.0, -0.5, 0.0])


def test_clamp_at_the_same_corners():
    for log_ratio, advantage, value in zip(
        LOG_RATIO, ADVANTAGE, [-1.2, 1.2, -0.8, 0.8], strict=True
    ):
        loss = policy_gradient.clamped_ratio_loss(log_ratio[None], advantage[None], CLIP)
        assert float(loss) == pytest.approx(value)


def test_clamp_has_no_gradient_outside_of_its_band():
    assert gradient(policy_gradient.clamped_ratio_loss) == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("function", [policy_gradient.clamped_ratio_loss, policy_gradient.ppo_loss])
def test_both_forms_are_the_policy_gradient_at_ratio_one(function):
    log_ratio = torch.zeros(4, requires_grad=True)
    function(log_ratio, ADVANTAGE, CLIP).backward()
    torch.testing.assert_close(log_ratio.grad, -ADVANTAGE / 4)


def test_clip_fraction_counts_both_sides():
    log_ratio = torch.tensor([2.0, 1.1, 1.0, 0.5]).log()
    assert float(checked(policy_gradient.clip_fraction)(log_ratio, CLIP)) == 0.5


def test_prediction_kl_is_the_mean_square():
    prediction = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    reference = torch.tensor([1.0, 2.0, 3.0, 2.0]).view(1, 1, 2, 2)
    assert checked(kl.prediction_kl)(prediction, reference).tolist() == [1.0]


def test_exact_kl_by_hand_and_by_the_distribution():
    mean = torch.tensor([2.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    reference = torch.zeros(1, 1, 2, 2)
    std = torch.full((1, 1, 1, 1), 0.5)
    found = checked(kl.exact_kl)(mean, reference, std)
    assert found.tolist() == [2.0]
    by_torch = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(reference, std)
    )
    torch.testing.assert_close(found, by_torch.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(
        found, LatentGaussian(mean, std).kl_per_dim(LatentGaussian(reference, std))
    )


def test_weighted_denoising_by_hand():
    prediction = torch.zeros(2, 1, 1, 2)
    # Squared errors 4 and 1.
    target = torch.tensor([[2.0, -2.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    weight = torch.tensor([0.5, 2.0])
    loss = checked(weighted_denoising.weighted_denoising_loss)(prediction, target, weight)
    assert float(loss) == 2.0


def test_data_weights_are_clipped_at_zero_and_counted():
    found = checked(weighted_denoising.data_weights)(torch.tensor([-2.0, -0.5, 1.0]), 1.0)
    assert found.weights.tolist() == [0.0, 0.5, 2.0]
    assert int(found.num_clipped) == 1


def test_data_weights_of_the_boundary_are_not_counted():
    found = weighted_denoising.data_weights(torch.tensor([-1.0]), 1.0)
    assert (found.weights.tolist(), int(found.num_clipped)) == ([0.0], 0)


def test_output_anchor_by_hand():
    prediction = torch.zeros(1, 1, 1, 1)
    target, reference = (torch.full((1, 1, 1, 1), math.sqrt(value)) for value in (3.0, 4.0))
    loss = checked(weighted_denoising.output_anchored_loss)(
        prediction, target, reference, torch.tensor([2.0]), 0.5
    )
    assert float(loss) == pytest.approx(8.0)


def test_the_anchor_is_a_mean_over_samples():
    prediction, target = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    reference = torch.tensor([2.0, 4.0]).view(2, 1, 1, 1)
    weight = torch.tensor([1.0, 3.0])
    loss = weighted_denoising.output_anchored_loss(prediction, target, reference, weight, 0.5)
    # (1 · 1 + 3 · 1) / 2 + 0.5 · (4 + 16) / 2.
    assert float(loss) == pytest.approx(2.0 + 5.0)


REWARD = torch.tensor([1.0, 3.0, 5.0, 5.0])
GROUP = torch.tensor([0, 0, 1, 1])


def test_raw_advantages_are_the_rewards():
    found = checked(advantage_module.advantages)(REWARD, GROUP, "raw")
    assert torch.equal(found.values, REWARD)
    assert (found.kept.tolist(), found.num_dropped_groups) == ([True] * 4, 0)


def test_batch_advantages_have_mean_zero_and_unit_spread():
    found = checked(advantage_module.advantages)(REWARD, GROUP, "batch")
    # Mean 3.5, squares (6.25, 0.25, 2.25, 2.25), mean 2.75.
    expected = torch.tensor([-2.5, -0.5, 1.5, 1.5]) / math.sqrt(2.75)
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=0)
    assert found.num_dropped_groups == 0


def test_group_advantages_drop_and_count_groups_without_variance():
    found = checked(advantage_module.advantages)(REWARD, GROUP, "group_centred")
    assert found.values.tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert found.kept.tolist() == [True, True, False, False]
    assert found.num_dropped_groups == 1


def test_standardised_groups_have_unit_spread():
    reward = torch.tensor([1.0, 3.0, 10.0, 30.0])
    found = checked(advantage_module.advantages)(reward, GROUP, "group_standardised")
    torch.testing.assert_close(
        found.values, torch.tensor([-1.0, 1.0, -1.0, 1.0]), rtol=1e-5, atol=0
    )


def test_groups_may_interleave():
    found = advantage_module.group_centred(
        torch.tensor([1.0, 5.0, 3.0, 8.0]), torch.tensor([0, 1, 0, 1])
    )
    assert found.tolist() == [-1.0, -1.5, 1.0, 1.5]


def test_a_broadcast_that_torch_would_allow_is_refused():
    with pytest.raises(TypeCheckError):
        checked(policy_gradient.ppo_loss)(torch.zeros(4, 1), ADVANTAGE, CLIP)
