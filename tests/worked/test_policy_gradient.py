"""Losses, advantages and windows of the on-policy methods against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from torch import Tensor

from components.diffusion import LatentGaussian
from components.finetuning.algorithms.mix_grpo import MixGRPOSettings
from components.finetuning.losses import advantages as advantage_module
from components.finetuning.losses import kl, policy_gradient

NAN = math.nan


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


def test_the_score_function_by_hand():
    log_prob = torch.tensor([-1.0, -3.0], requires_grad=True)
    loss = checked(policy_gradient.score_function_loss)(log_prob, torch.tensor([2.0, -1.0]))
    # (2·1 - 1·3) / 2.
    assert loss.item() == -0.5
    loss.backward()
    assert log_prob.grad.tolist() == [-1.0, 0.5]


def test_ratio_figures_by_hand():
    found = policy_gradient.ratio_figures(torch.tensor([2.0, 1.1, 1.0, 0.5]).log(), 0.2)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"ratio_mean": 1.15, "ratio_deviation_max": 1.0, "clip_fraction": 0.5}
    )
    below = policy_gradient.ratio_figures(torch.tensor([0.25, 1.5]).log(), 0.2)
    assert float(below["ratio_deviation_max"]) == pytest.approx(0.75)
    log_ratio = torch.zeros(2, 3, requires_grad=True)
    without_a_band = policy_gradient.ratio_figures(log_ratio)
    assert list(without_a_band) == ["ratio_mean", "ratio_deviation_max"]
    assert not any(value.requires_grad for value in without_a_band.values())


def test_the_regulated_ratio_by_hand():
    def one(value: float) -> Tensor:
        return torch.full((1, 1, 1, 1), value)

    # x = 1 = μ_old + 0.5·2, μ = 0.25: 0.25·1/0.25 - 0.0625/0.5.
    old, new = LatentGaussian(one(0.0), one(0.5)), LatentGaussian(one(0.25), one(0.5))
    log_ratio = new.log_prob_per_dim(one(1.0)) - old.log_prob_per_dim(one(1.0))
    assert log_ratio.item() == pytest.approx(0.875)
    found = checked(policy_gradient.regulated_log_ratio)(log_ratio, new.mean, old.mean, new.std)
    assert found.item() == pytest.approx(0.5)


def test_the_regulated_ratio_is_noise_times_shift_at_every_noise_level():
    generator = torch.Generator().manual_seed(0)
    shape = (5, 3, 4, 4)
    noise, mean_old = (torch.randn(shape, generator=generator) for _ in range(2))
    shift = 0.3 * torch.randn(shape, generator=generator)
    std = torch.tensor([0.1, 0.3, 0.5, 1.0, 2.0]).view(5, 1, 1, 1)
    mean = (mean_old + shift).requires_grad_()
    x = mean_old + std * noise
    log_ratio = LatentGaussian(mean, std).log_prob_per_dim(x)
    log_ratio = log_ratio - LatentGaussian(mean_old, std).log_prob_per_dim(x)
    found = policy_gradient.regulated_log_ratio(log_ratio, mean, mean_old, std)
    torch.testing.assert_close(found, (noise * shift).mean((1, 2, 3)), rtol=1e-3, atol=1e-5)
    # Its gradient does not depend on how far the mean has moved, nor on the noise level.
    found.sum().backward()
    torch.testing.assert_close(mean.grad, noise / 48, rtol=1e-3, atol=1e-5)


def test_the_divergence_mask_by_hand():
    log_ratio = torch.tensor([2.0, 2.0, 0.5, 2.0]).log().requires_grad_()
    advantage = torch.tensor([1.0, -1.0, -1.0, 1.0])
    divergence = torch.tensor([3.0, 3.0, 3.0, 1.0])
    loss = checked(policy_gradient.divergence_masked_loss)(log_ratio, advantage, divergence, 2.0)
    # Samples one and three are gone: 0 + 2 + 0 - 2.
    assert loss.item() == pytest.approx(0.0)
    loss.backward()
    torch.testing.assert_close(log_ratio.grad, torch.tensor([0.0, 0.5, 0.0, -0.5]))


def test_who_is_leaving():
    ratio = torch.tensor([2.0, 0.5, 2.0, 0.5, 0.5, 1.0, 2.0])
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 0.0])
    divergence = torch.tensor([3.0, 9.0, 9.0, 3.0, 2.9, 9.0, 9.0])
    found = checked(policy_gradient.leaving)(ratio.log(), advantage, divergence, 3.0)
    # From the limit on, and only in the direction of the advantage.
    assert found.tolist() == [True, False, False, True, False, False, False]


def test_a_masked_ratio_that_has_overflowed_harms_nobody():
    log_ratio = torch.tensor([500.0, 0.0], requires_grad=True)
    advantage, divergence = torch.tensor([1.0, 2.0]), torch.tensor([9.0, 0.0])
    loss = policy_gradient.divergence_masked_loss(log_ratio, advantage, divergence, 1.0)
    loss.backward()
    assert loss.item() == -1.0
    assert log_ratio.grad.tolist() == [0.0, -1.0]


def test_the_step_weighted_kl_is_the_codes():
    mean = torch.tensor([2.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    reference = torch.zeros(1, 1, 2, 2)
    std, step_size = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 0.1)
    found = checked(kl.step_weighted_kl)(mean, reference, std, step_size)
    assert found.tolist() == pytest.approx([0.2])
    # Flow-GRPO's code: mean square over twice the squared diffusion coefficient, std² / (-dt).
    coefficient = std**2 / step_size
    theirs = (mean - reference).square().mean((1, 2, 3)) / (2 * coefficient.flatten())
    torch.testing.assert_close(found, theirs)


def test_the_deviation_of_all_rewards_scales_what_is_centred_in_groups():
    reward, group = torch.tensor([1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1])
    found = checked(advantage_module.advantages)(reward, group, "group_global_std")
    # Centred (-1, 1, 0, 0), over √2.75.
    expected = torch.tensor([-1.0, 1.0, 0.0, 0.0]) / math.sqrt(2.75)
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=0)
    assert found.kept.tolist() == [True, True, False, False]
    assert found.num_dropped_groups == 1


def test_the_newest_rewards_are_remembered():
    history = torch.tensor([[NAN, 1.0], [NAN, NAN], [7.0, 8.0]])
    before = history.clone()
    found = checked(advantage_module.remembered)(
        history, torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0, 1, 0])
    )
    torch.testing.assert_close(
        found, torch.tensor([[2.0, 4.0], [NAN, 3.0], [7.0, 8.0]]), equal_nan=True
    )
    torch.testing.assert_close(history, before, equal_nan=True)


def test_tracked_advantages_by_hand():
    found = checked(advantage_module.tracked_advantages)(
        torch.tensor([2.0, 6.0]),
        torch.tensor([0, 1]),
        torch.tensor([[0.0, 2.0], [NAN, 6.0]]),
        2,
    )
    # (2 - 1) / 1, and with one reward (6 - 4) / 2 of the round.
    torch.testing.assert_close(found, torch.ones(2), rtol=1e-5, atol=0)


def test_a_prompt_is_compared_with_its_own_rewards_alone():
    history = torch.tensor([[0.0, 2.0, 4.0], [NAN, NAN, NAN], [10.0, 20.0, 60.0]])
    reward, prompt = torch.tensor([60.0, 4.0, 20.0]), torch.tensor([2, 0, 2])
    found = advantage_module.tracked_advantages(reward, prompt, history, 3)
    # Prompt 2: mean 30, deviations (-20, -10, 30), √(1400/3); prompt 0: mean 2, √(8/3).
    wide, narrow = math.sqrt(1400 / 3), math.sqrt(8 / 3)
    torch.testing.assert_close(found, torch.tensor([30 / wide, 2 / narrow, -10 / wide]))


def test_a_history_that_is_not_full_yet_and_one_of_a_single_reward():
    history = torch.tensor([[NAN, 0.0, 2.0], [NAN, NAN, 6.0]])
    reward, prompt = torch.tensor([4.0, 8.0]), torch.tensor([0, 1])
    found = advantage_module.tracked_advantages(reward, prompt, history, 1)
    # Prompt 0: (4 - 1) / 1; prompt 1: one reward has no deviation, (8 - 6) / 1e-6.
    torch.testing.assert_close(found, torch.tensor([3.0, 2e6]), rtol=1e-4, atol=0)


def test_the_mean_of_a_group_of_one():
    found = checked(advantage_module.group_mean)(
        torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1])
    )
    assert found.tolist() == [2.0, 2.0, 5.0]


@pytest.mark.parametrize("kind", ["batch", "group_standardised", "group_global_std"])
def test_rewards_that_differ_by_a_hair_are_not_blown_up(kind):
    # Their deviation is 1e-6, as is what is added to it: half of ±1.
    found = advantage_module.advantages(torch.tensor([0.0, 2e-6]), torch.tensor([0, 0]), kind)
    torch.testing.assert_close(found.values, torch.tensor([-0.5, 0.5]), rtol=1e-4, atol=0)


def test_equal_rewards_have_no_advantage():
    found = advantage_module.tracked_advantages(
        torch.tensor([5.0, 5.0]), torch.tensor([0, 0]), torch.tensor([[5.0, 5.0]]), 2
    )
    assert found.tolist() == [0.0, 0.0]


def test_advantages_are_clipped_on_both_sides():
    found = checked(advantage_module.clipped)(torch.tensor([-7.0, 2.0, 5.5]), 5.0)
    assert found.tolist() == [-5.0, 2.0, 5.0]


STEPS = (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # As in the docstring: the last place ends with the steps.
        (
            {"window_size": 2, "stride": 2, "rounds_per_window": 1},
            [(0, 1), (2, 3), (3, 4), (0, 1), (2, 3)],
        ),
        (
            {"window_size": 2, "stride": 2, "rounds_per_window": 1, "roll_back": False},
            [(0, 1), (2, 3), (3, 4), (3, 4), (3, 4)],
        ),
        (
            {"window_size": 4, "stride": 1, "rounds_per_window": 2},
            [(0, 1, 2, 3), (0, 1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4), (0, 1, 2, 3)],
        ),
        ({"window_size": 5, "stride": 1, "rounds_per_window": 1}, [STEPS] * 3),
        ({"window_size": 9, "stride": 1, "rounds_per_window": 1}, [STEPS] * 3),
    ],
)
def test_the_window_slides_and_starts_again(settings, expected):
    window = MixGRPOSettings(**settings).window
    assert [window(STEPS, number) for number in range(len(expected))] == expected
