"""Losses on preferences, denoising errors and calibration against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped
from torch import Tensor

from components.contracts.errors import GuardError
from components.diffusion.noise import NoiseLevel, NoiseSchedule
from components.finetuning.denoising_errors import Errors, latent_error, training_step
from components.finetuning.experience.calibration import beta_for
from components.finetuning.experience.judged import order_by_reward
from components.finetuning.losses import preference

LOG3 = math.log(3)


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_dpo_at_the_reference_is_log_2_whatever_the_temperature():
    zero = torch.zeros(3)
    for dpo_beta in (0.1, 2500.0):
        assert float(checked(preference.dpo_loss)(zero, zero, dpo_beta)) == pytest.approx(
            math.log(2)
        )


def test_dpo_by_hand_with_its_gradients():
    gain_w, gain_l = leaf(0.5), leaf(0.5 - LOG3 / 2)
    loss = checked(preference.dpo_loss)(gain_w, gain_l, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(0.75))
    assert gain_w.grad.tolist() == pytest.approx([-0.5])
    assert gain_l.grad.tolist() == pytest.approx([0.5])


def test_dpo_of_several_pairs_is_their_mean():
    # Margins log 3 and -log 3: -log 3/4 and -log 1/4.
    loss = preference.dpo_loss(leaf(LOG3, 0.0), leaf(0.0, LOG3), 1.0)
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_a_tie_pulls_the_margin_to_zero_and_a_soft_label_to_its_logit():
    margin = leaf(LOG3, LOG3, LOG3)
    share = torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64)
    loss = checked(preference.soft_preference_loss)(margin, share)
    loss.backward()
    tie, soft, clear = 0.836988, 0.562335, 0.287682
    assert loss.item() == pytest.approx((tie + soft + clear) / 3, abs=1e-6)
    # σ(m) - p: a quarter too much, right, a quarter too little.
    assert (3 * margin.grad).tolist() == pytest.approx([0.25, 0.0, -0.25])
    assert preference.dpo_loss(margin, torch.zeros(3), 1.0, share).item() == pytest.approx(
        loss.item()
    )


def test_cpo_by_hand_with_its_gradients():
    error_w, error_l = leaf(1.0), leaf(1.0 + LOG3 / 2)
    loss = checked(preference.cpo_loss)(error_w, error_l, 2.0, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(0.75) + 0.1)
    assert error_w.grad.tolist() == pytest.approx([0.6])
    assert error_l.grad.tolist() == pytest.approx([-0.5])


def test_cpo_of_a_tie_weighs_both_errors():
    error_w, error_l = leaf(1.0), leaf(3.0)
    share = torch.tensor([0.5], dtype=torch.float64)
    with_term = preference.cpo_loss(error_w, error_l, 2.0, 0.1, share)
    without = preference.cpo_loss(error_w, error_l, 2.0, 0.0, share)
    assert (with_term - without).item() == pytest.approx(0.1 * 2.0)


def test_the_winners_own_term_is_a_mean_over_pairs():
    error_w, error_l = leaf(1.0, 3.0), leaf(2.0, 4.0)
    share = torch.tensor([0.25, 0.5], dtype=torch.float64)
    for given, term in ((None, (1 + 3) / 2), (share, (0.25 * 1 + 0.75 * 2 + 0.5 * (3 + 4)) / 2)):
        with_term, without = (
            preference.cpo_loss(error_w, error_l, 2.0, weight, given) for weight in (0.1, 0.0)
        )
        assert (with_term - without).item() == pytest.approx(0.1 * term)


def test_dco_gates_each_sample_or_the_batch():
    gain = leaf(LOG3, -LOG3)
    loss = checked(preference.dco_loss)(gain, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert gain.grad.tolist() == pytest.approx([-0.125, -0.375])
    gain = leaf(LOG3, -LOG3)
    loss = preference.dco_loss(gain, 1.0, "before_sigmoid")
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert gain.grad.tolist() == pytest.approx([-0.25, -0.25])
    assert preference.dco_loss(leaf(LOG3 / 2), 2.0).item() == pytest.approx(-math.log(0.75))


def test_kto_at_the_reference_is_a_half():
    desirable = torch.tensor([True, False, False])
    assert float(checked(preference.kto_loss)(torch.zeros(3), desirable, 1000.0)) == 0.5


def test_kto_by_hand_with_its_gradients():
    gain = leaf(LOG3 + 0.5, 0.7 - LOG3, 0.3)
    desirable = torch.tensor([True, True, False])
    loss = checked(preference.kto_loss)(gain, desirable, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.4702767, abs=1e-6)
    # No gradient flows through the baseline: with one, they would sum to another number.
    assert gain.grad.tolist() == pytest.approx([-0.0625, -0.0685396, 0.0825054], abs=1e-6)


def test_ktos_baseline_is_not_below_zero():
    # Gains of -log 3 have a mean below zero: z is 0, not -log 3, which would give a half.
    loss = preference.kto_loss(leaf(-LOG3, -LOG3), torch.tensor([True, True]), 1.0)
    assert loss.item() == pytest.approx(0.75)


def test_ktos_margins_by_hand():
    desirable = torch.tensor([True, True, False])
    margin = checked(preference.kto_margin)(torch.tensor([1.0, 2.0, 3.0]), desirable)
    assert margin.tolist() == [-1.0, 0.0, -1.0]
    assert preference.kto_margin(torch.tensor([-1.0, -2.0, 0.0]), desirable).tolist() == [-1, -2, 0]


def test_kto_weighs_the_two_labels():
    gain, desirable = leaf(0.0, 0.0, 0.0), torch.tensor([True, False, False])
    loss = preference.kto_loss(gain, desirable, 2.0, 3.0, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx((3.0 + 0.5 + 0.5) / 2 / 3)
    # w y β / 4 over three samples.
    assert gain.grad.tolist() == pytest.approx([-0.5, 1 / 12, 1 / 12])


def test_an_even_pair_counts_half():
    margin = torch.tensor([0.2, 0.0, -1.0, 3.0])
    assert float(checked(preference.implicit_accuracy)(margin)) == 0.625


def test_a_broadcast_that_torch_would_allow_is_refused():
    with pytest.raises(TypeCheckError):
        checked(preference.dpo_loss)(torch.zeros(2, 1), torch.zeros(2), 1.0)


def test_the_gain_is_what_the_policy_denoises_better():
    errors = Errors(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 4.0]), torch.zeros(2))
    winners, losers = errors.halves()
    assert (winners.gain.tolist(), losers.gain.tolist()) == ([2.0], [-1.0])


def test_latent_error_is_the_mean_square():
    prediction = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]).view(2, 1, 2, 2)
    target = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0, 1.0, 1.0, 3.0]).view(2, 1, 2, 2)
    assert checked(latent_error)(prediction, target).tolist() == [1.0, 3.0]


def schedule(prediction_type: str = "epsilon") -> NoiseSchedule:
    return NoiseSchedule(torch.tensor([0.9, 0.45]), 0.9, prediction_type)


def level(timestep: int, prediction_type: str = "epsilon") -> NoiseLevel:
    return schedule(prediction_type).level(torch.tensor([timestep]))


def pixel(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


def test_the_step_on_the_training_schedule_by_hand():
    # x0 = 2 said by a model that predicts it; x_t = 3.
    step = training_step(schedule(), level(1, "sample"), pixel(2.0), pixel(3.0))
    assert float(step.mean) == pytest.approx(0.862439 * 2 + 0.128565 * 3, abs=1e-5)
    assert float(step.std) == pytest.approx(math.sqrt(1 / 11), abs=1e-6)


def test_noise_moves_the_step_by_its_known_factor():
    # -β_t / (√α_t √(1 - ᾱ_t)) = -0.5 / √(0.5 · 0.55).
    moved = training_step(schedule(), level(1), pixel(1.5), pixel(3.0)).mean
    base = training_step(schedule(), level(1), pixel(0.5), pixel(3.0)).mean
    assert float(moved - base) == pytest.approx(-0.5 / math.sqrt(0.275), abs=1e-5)


def test_at_the_first_timestep_the_step_leads_nowhere():
    step = training_step(schedule(), level(0), pixel(1.5), pixel(3.0))
    assert (float(step.mean), float(step.std)) == (3.0, 0.0)


def test_the_temperature_is_the_target_over_the_spread():
    assert beta_for(torch.tensor([-0.002, 0.001, 0.004]), 0.6) == pytest.approx(200.0, rel=1e-5)


@pytest.mark.parametrize("logits", [[0.0, 0.0], [1.0]])
def test_logits_that_do_not_move_set_no_temperature(logits):
    with pytest.raises(GuardError, match=r"calibrate: . logits .* set no dpo_beta"):
        beta_for(torch.tensor(logits), 1.0)


REWARD = torch.tensor([1.0, 3.0, 2.0, 5.0, 5.0])
GROUP = torch.tensor([0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("choose", "pairs"), [("best_worst", [(1, 0)]), ("all", [(2, 0), (1, 0), (1, 2)])]
)
def test_pairs_of_the_reward(choose, pairs):
    judged = order_by_reward(torch.zeros(5, 1, 1, 1), ["x"] * 5, REWARD, GROUP, choose)
    assert sorted(zip(judged.winner.tolist(), judged.loser.tolist(), strict=True)) == sorted(pairs)
    assert judged.preference.tolist() == [1.0] * len(pairs)
