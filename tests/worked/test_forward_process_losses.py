"""The forward-process losses against numbers worked by hand, with shapes checked at run time."""

from __future__ import annotations

import math

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from torch import Tensor

from components.finetuning.algorithms.forward_process import ForwardProcessSettings, SnapshotDecay
from components.finetuning.losses import forward_process as losses
from components.finetuning.noising import random_steps


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


def latents(*rows: list[float]) -> Tensor:
    """One sample a row, [b, 1, 1, w]."""
    return torch.tensor(rows)[:, None, None, :]


def test_optimality_by_hand():
    found = checked(losses.optimality_prob)(torch.tensor([-10.0, 0.0, 1.0, 10.0]), 5.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.6, 1.0]))


def test_implicit_predictions_by_hand():
    found = checked(losses.implicit_predictions)(latents([3.0, -2.0]), latents([1.0, 2.0]), 0.25)
    # 0.25·3 + 0.75·1, 0.25·(-2) + 0.75·2; 1.25·1 - 0.25·3, 1.25·2 + 0.25·2.
    assert found.positive.flatten().tolist() == [1.5, 1.0]
    assert found.negative.flatten().tolist() == [0.5, 3.0]


def test_the_self_normalised_error_divides_by_a_number_and_not_by_a_function():
    prediction = latents([4.0, 1.0], [1.0, 2.5]).requires_grad_()
    found = checked(losses.self_normalised_error)(prediction, latents([1.0, 2.0], [1.0, 2.0]))
    # Errors (3, -1): 5 / 2. Errors (0, 0.5): 0.125 / 0.25.
    assert found.tolist() == [2.5, 0.5]
    found.sum().backward()
    # 2·e / (dimensions · size): 2·3/(2·2), 2·(-1)/(2·2); 0, 2·0.5/(2·0.25).
    assert prediction.grad.flatten().tolist() == [1.5, -0.5, 0.0, 2.0]


def test_a_perfect_prediction_divides_by_the_floor():
    prediction = latents([1.0 + 2**-20]).requires_grad_()
    losses.self_normalised_error(prediction, latents([1.0])).sum().backward()
    assert float(prediction.grad) == pytest.approx(2 * 2**-20 / 1e-5)


def test_nft_by_hand():
    x0_theta = latents([3.0]).requires_grad_()
    loss = checked(losses.nft_loss)(
        x0_theta, latents([1.0]), latents([4.0]), torch.tensor([0.75]), 0.5
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(5.0)
    assert float(x0_theta.grad) == pytest.approx(-1.0)


def test_nft_is_a_mean_over_samples():
    x0_theta = latents([3.0], [3.0])
    one = losses.nft_loss(
        x0_theta, latents([1.0], [1.0]), latents([4.0], [4.0]), torch.tensor([0.75, 0.0]), 0.5
    )
    # The second: q = 0, so ℓ⁻ / β = 4 / 0.5.
    assert float(one) == pytest.approx((5.0 + 8.0) / 2)


@pytest.mark.parametrize("mix_beta", [1.0, 0.1])
def test_nft_at_the_old_policy_is_the_advantage_weighted_error(mix_beta: float):
    generator = torch.Generator().manual_seed(0)
    old, x0 = torch.randn((2, 3, 2, 4, 4), generator=generator)
    good = torch.tensor([0.5, 0.8, 0.1])
    x0_theta = old.clone().requires_grad_()
    losses.nft_loss(x0_theta, old, x0, good, mix_beta).backward()
    plain = old.clone().requires_grad_()
    ((2 * good - 1) * losses.self_normalised_error(plain, x0)).mean().backward()
    torch.testing.assert_close(x0_theta.grad, plain.grad, rtol=1e-5, atol=1e-7)
    # Nothing is learned from an image that is neither good nor bad.
    assert float(x0_theta.grad[0].abs().max()) <= 1e-8
    assert float(x0_theta.grad[1].abs().max()) > 1e-3


def test_an_error_of_the_clean_latent_is_that_of_the_output_times_the_level():
    """In velocity space and in x0 space one loss, but for the weight of the level."""
    from components.diffusion import NoiseLevel

    generator = torch.Generator().manual_seed(1)
    x0, noise, theta, old = torch.randn((4, 2, 3, 4, 4), generator=generator)
    share = torch.tensor([0.3, 0.9]).view(-1, 1, 1, 1)
    scales = {  # how far x̂0 moves for a unit of the output
        "flow": (1 - share, share, share),
        "v_prediction": ((1 - share**2).sqrt(), share, share),
        "epsilon": ((1 - share**2).sqrt(), share, share / (1 - share**2).sqrt()),
        "sample": ((1 - share**2).sqrt(), share, torch.ones_like(share)),
    }
    for kind, (signal, level_noise, scale) in scales.items():
        level = NoiseLevel(torch.tensor([300, 900]), signal, level_noise, kind)
        x_t, target = level.add_noise(x0, noise), level.target(x0, noise)
        clean, clean_old = (level.predict(output, x_t)[0] for output in (theta, old))
        expected = (scale * (theta - target)).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(
            (clean - x0).square().mean(dim=(1, 2, 3)), expected, rtol=1e-4, atol=1e-5
        )
        in_x0 = losses.implicit_predictions(clean, clean_old, 0.1)
        in_output = losses.implicit_predictions(theta, old, 0.1)
        for mixed, output in zip(in_x0, in_output, strict=True):
            torch.testing.assert_close(mixed, level.predict(output, x_t)[0], rtol=1e-4, atol=1e-4)


def test_matching_log_prob_by_hand():
    prediction, target = latents([2.0, 2.0], [1.0, 0.0]), latents([0.0, 0.0], [0.0, 0.0])
    noise = torch.tensor([0.5, 0.2]).view(-1, 1, 1, 1)
    found = checked(losses.matching_log_prob)
    assert found(prediction, target, noise, "uniform").tolist() == [-4.0, -0.5]
    assert found(prediction, target, noise, "noise").tolist() == pytest.approx([-2.0, -0.1])
    huber = found(prediction, target, noise, "generalised_huber", 0.5)
    # -t · (√(e + 1e-10) - 1e-5) / 0.5
    assert huber.tolist() == pytest.approx(
        [-0.5 * (2 - 1e-5) / 0.5, -0.2 * (math.sqrt(0.5) - 1e-5) / 0.5], rel=1e-6
    )
    quarter = found(prediction, target, noise, "generalised_huber")
    assert float(quarter[0]) == pytest.approx(-0.5 * (math.sqrt(2) - 10**-2.5) / 0.25, rel=1e-6)


def test_the_huber_form_is_finite_where_nothing_is_wrong():
    prediction = latents([0.0]).requires_grad_()
    noise = torch.ones(1, 1, 1, 1)
    found = losses.matching_log_prob(prediction, latents([0.0]), noise, "generalised_huber")
    found.sum().backward()
    assert float(found.detach()) == 0.0 and float(prediction.grad) == 0.0


def test_group_preference_by_hand():
    error = torch.tensor([[1.0], [2.0]], requires_grad=True)
    found = checked(losses.group_preference_loss)(
        error, torch.tensor([[2.0], [2.0]]), torch.tensor([1.0, -1.0]), torch.tensor([4, 4]), 2.0
    )
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(math.log(1 + math.exp(-1)) / 2)
    assert error.grad.flatten().tolist() == pytest.approx([0.1344707, -0.1344707])
    assert float(found.implicit_acc) == 1.0


def test_group_preference_has_the_gradient_of_the_released_loss():
    """The mean of A·e, each group weighted by a detached sigmoid of its score."""
    generator = torch.Generator().manual_seed(2)
    group = torch.tensor([7, 3, 7, 3, 3, 7])
    error = torch.rand((6, 2), generator=generator).requires_grad_()
    reference, advantage = (
        torch.rand((6, 2), generator=generator),
        torch.randn(6, generator=generator),
    )
    found = losses.group_preference_loss(error, reference, advantage, group, 5.0)
    (gradient,) = torch.autograd.grad(found.loss, error)
    released = torch.zeros(())
    right = 0
    for level in range(2):
        for name in (3, 7):
            rows = group == name
            difference = (error[rows, level] - reference[rows, level]).detach()
            score = (advantage[rows] * 5.0 * difference / 3).sum()
            right += int(score < 0)
            weight = torch.sigmoid(score)
            released = released + (weight * advantage[rows] * error[rows, level]).sum() / 12
    (expected,) = torch.autograd.grad(released, error)
    torch.testing.assert_close(gradient, expected)
    assert float(found.implicit_acc) == right / 4 and 0 < right < 4


def test_at_the_reference_every_group_is_a_tie():
    error = torch.tensor([[0.3, 0.1], [0.2, 0.4]])
    found = losses.group_preference_loss(
        error, error, torch.tensor([1.0, -1.0]), torch.tensor([0, 0]), 100.0
    )
    assert float(found.loss) == pytest.approx(math.log(2) / 100)
    assert float(found.implicit_acc) == 0.5


def test_gone_far_is_one_sided():
    log_ratio = torch.tensor([2.0, 2.0, 0.5, 0.5, 1.1, 0.9]).log()
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    found = checked(losses.gone_far)(log_ratio, advantage, 0.2)
    assert found.tolist() == [True, False, False, True, False, False]


def test_a_snapshot_lags_as_its_settings_say():
    assert [SnapshotDecay().after(n) for n in (0, 1, 100, 500, 900)] == [0, 0.001, 0.1, 0.5, 0.5]
    ocr = SnapshotDecay(flat_updates=75, slope=0.0075, highest=0.999)
    assert [ocr.after(n) for n in (0, 75, 77, 1000)] == [0.0, 0.0, 0.015, 0.999]


def test_which_steps_are_trained_on():
    def steps(num_steps: int, **settings: object) -> list[int]:
        return list(ForwardProcessSettings(**settings).steps(num_steps))

    assert steps(4) == [0, 1, 2, 3]
    # AWM's own: neither the first of 14 nor the last two.
    assert steps(14, first_step=1, step_fraction=0.9) == list(range(1, 12))
    assert steps(100, step_fraction=0.29)[-1] == 28
    assert steps(3, first_step=2, step_fraction=0.1) == [2]


def test_levels_of_an_image_differ_while_they_can():
    generator = torch.Generator().manual_seed(0)
    drawn = random_steps(range(1, 5), 300, 3, generator)
    assert drawn.shape == (300, 3)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    counts = torch.bincount(drawn.flatten(), minlength=5)
    # 225 expected of each; four standard deviations are 30 (each image takes one or none).
    assert counts[0] == 0 and (counts[1:] - 225).abs().max() < 30
    more = random_steps(range(1, 4), 5, 7, generator)
    assert all(sorted(row[:3]) == sorted(row[3:6]) == [1, 2, 3] for row in more.tolist())
