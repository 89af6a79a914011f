"""What must hold for consistency steps, whatever the numbers; RLCM (2404.03673) builds on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.contracts.errors import GuardError, ModelError, SettingsError
from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import load_policy
from components.diffusion.consistency_sampler import ConsistencySampler
from components.diffusion.noise import NoiseSchedule
from components.diffusion.rollout import rollout
from tests.support.schedules import normal, stable_diffusion_schedule
from tests.support.tiny_consistency import tiny_consistency_base

SHAPE = (3, 4, 5, 6)
PREDICTIONS = ("epsilon", "sample", "v_prediction")


def test_timesteps_are_some_of_the_levels_of_the_distillation() -> None:
    """Worked by hand: of 19, 39, ..., 999 those numbered 0, 12, 25, 37 from the noisy end."""
    sampler = ConsistencySampler(stable_diffusion_schedule(), 4)
    assert [int(sampler.timestep(step)) for step in range(4)] == [999, 759, 499, 259]
    assert int(ConsistencySampler(stable_diffusion_schedule(), 1).timestep(0)) == 999
    only = ConsistencySampler(stable_diffusion_schedule(), 1, original_inference_steps=1)
    assert int(only.timestep(0)) == 999


def test_every_step_but_the_last_has_the_density_of_new_noise() -> None:
    schedule = stable_diffusion_schedule()
    sampler = ConsistencySampler(schedule, 4)
    assert sampler.stochastic_steps == (0, 1, 2)
    for step, after in enumerate((759, 499, 259)):
        std = sampler.transition(normal(1, *SHAPE), normal(2, *SHAPE), step).std
        assert std.shape == (3, 1, 1, 1)
        expected = (1 - schedule.alphas_cumprod[after]).sqrt()
        torch.testing.assert_close(std, expected.expand(3, 1, 1, 1))
    last = sampler.transition(normal(1, *SHAPE), normal(2, *SHAPE), 3)
    assert torch.equal(last.std, torch.zeros(3, 1, 1, 1))
    with pytest.raises(GuardError, match="std 0"):
        last.log_prob(last.mean)


def test_one_step_has_no_likelihood() -> None:
    assert ConsistencySampler(stable_diffusion_schedule(), 1).stochastic_steps == ()


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_perfect_network_leads_to_the_data_with_the_right_noise(prediction_type: str) -> None:
    """Where f is x0, the mean is √ᾱ_prev·x0 and the last step returns x0."""
    schedule = stable_diffusion_schedule(prediction_type=prediction_type)
    sampler = ConsistencySampler(schedule, 4)
    x0, noise = normal(1, *SHAPE), normal(2, *SHAPE)
    for step, signal in enumerate([*(schedule.alphas_cumprod[[759, 499, 259]]).sqrt(), 1.0]):
        level = sampler.level(step, 3)
        x_t = level.add_noise(x0, noise)
        found = sampler.transition(level.target(x0, noise), x_t, step)
        # x_t itself has a share of c_skip, 4e-8 at timestep 259, in f.
        torch.testing.assert_close(found.mean, signal * x0, atol=5e-5, rtol=1e-4)


def test_without_noise_the_step_is_that_of_ddim() -> None:
    """A perfect network's path of eta 0 keeps x0 and noise: x_prev = √ᾱ_prev·x0 + √(1-ᾱ_prev)·ε."""
    schedule = stable_diffusion_schedule(prediction_type="v_prediction")
    window = ConsistencySampler(schedule, 4).noisy_only_at([1, 3])
    assert window.stochastic_steps == (1,)  # the last step stays a point
    x0, noise = normal(1, *SHAPE), normal(2, *SHAPE)
    for step, after in ((0, 759), (2, 259)):
        level = window.level(step, 3)
        found = window.transition(level.target(x0, noise), level.add_noise(x0, noise), step)
        alpha = schedule.alphas_cumprod[after]
        expected = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        torch.testing.assert_close(found.mean, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(found.std, torch.zeros(3, 1, 1, 1))
    whole, noisy = ConsistencySampler(schedule, 4), window
    ours, theirs = (s.transition(x0, noise, 1) for s in (noisy, whole))
    assert torch.equal(ours.mean, theirs.mean)
    assert torch.equal(ours.std, theirs.std)


def test_rows_of_different_steps_are_as_if_alone() -> None:
    sampler = ConsistencySampler(stable_diffusion_schedule(), 8)
    output, x_t, steps = normal(1, *SHAPE), normal(2, *SHAPE), torch.tensor([7, 0, 3])
    together = sampler.transition(output, x_t, steps)
    assert torch.equal(sampler.level(steps, 3).timestep, sampler.timestep(steps))
    for row, step in enumerate(steps.tolist()):
        alone = sampler.transition(output[row : row + 1], x_t[row : row + 1], step)
        assert torch.equal(alone.mean[0], together.mean[row])
        assert torch.equal(alone.std[0], together.std[row])


def test_arithmetic_is_in_single_precision_whatever_comes_in() -> None:
    sampler = ConsistencySampler(stable_diffusion_schedule(), 4)
    output, x_t = normal(1, *SHAPE).half(), normal(2, *SHAPE).half()
    half = sampler.transition(output, x_t, 1)
    assert half.mean.dtype == torch.float32
    assert torch.equal(half.mean, sampler.transition(output.float(), x_t.float(), 1).mean)


def test_drawn_levels_are_steps_or_levels_of_the_distillation() -> None:
    sampler = ConsistencySampler(stable_diffusion_schedule(), 4)
    drawn = sampler.draw_level(300, torch.Generator().manual_seed(1))
    assert set(drawn.timestep.tolist()) == {999, 759, 499, 259}
    drawn = sampler.draw_level(2000, torch.Generator().manual_seed(1), "training")
    assert set(drawn.timestep.tolist()) == set(range(19, 1000, 20))
    alpha = sampler.schedule.alphas_cumprod[drawn.timestep].view(-1, 1, 1, 1)
    torch.testing.assert_close(drawn.signal, alpha.sqrt())
    torch.testing.assert_close(drawn.noise, (1 - alpha).sqrt())


def test_what_is_refused() -> None:
    schedule = stable_diffusion_schedule()
    for num_steps in (0, 51):
        with pytest.raises(SettingsError, match="1 to 50"):
            ConsistencySampler(schedule, num_steps)
    with pytest.raises(SettingsError, match="1 to 1000"):
        ConsistencySampler(schedule, 4, original_inference_steps=1001)
    with pytest.raises(SettingsError, match="0 to 3"):
        ConsistencySampler(schedule, 4, noisy_steps=[4])
    ends_in_noise = NoiseSchedule(torch.linspace(0.999, 0.0, 100), 1.0, "epsilon")
    with pytest.raises(ModelError, match="v_prediction"):
        ConsistencySampler(ends_in_noise, 4)


def test_a_replayed_trajectory_has_the_likelihoods_that_it_was_drawn_with(tmp_path: Path) -> None:
    """What RLCM's ratio is made of: 1 before the first update, to the last bit."""
    base = tiny_consistency_base(tmp_path / "base", prediction_type="v_prediction")
    settings = BaseSettings(path=str(base), num_steps=4, guidance_scale=3.0, batch_size=4)
    policy = load_policy(settings, ComputeSettings(device="cpu", threads=1))
    policy.add_adapter(4, 4, generator=torch.Generator().manual_seed(0))
    conditioning = policy.encode_prompts(["a red cat", "two dogs", "a red cat", "a fox"])
    found = rollout(policy, conditioning, [1, 2, 3, 4])
    assert bool(found.log_probs[:, :3].isfinite().all())
    assert bool(found.log_probs[:, 3].isnan().all())
    rows = torch.arange(4).repeat_interleave(3).flip(0)
    steps = torch.arange(3).repeat(4).flip(0)
    x_t, x_prev = found.latents[rows, steps], found.latents[rows, steps + 1]
    replayed = policy.transition(x_t, steps, conditioning[rows]).log_prob_per_dim(x_prev)
    assert replayed.requires_grad
    assert torch.equal(replayed, found.log_probs[rows, steps])
