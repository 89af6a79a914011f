"""What must hold for any sampler, whatever the numbers: densities, divergences, marginals."""

from __future__ import annotations

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError, jaxtyped

from components.contracts.errors import GuardError, ModelError, SettingsError
from components.diffusion.noise import NoiseSchedule
from components.diffusion.samplers import DDIMSampler, LatentGaussian
from tests.support.schedules import normal, stable_diffusion_schedule

SHAPE = (3, 4, 5, 6)
PREDICTIONS = ("epsilon", "sample", "v_prediction")


def gaussian(seed: int) -> LatentGaussian:
    return LatentGaussian(normal(seed, *SHAPE), normal(seed + 1, 3, 1, 1, 1).exp())


def test_log_prob_is_that_of_torch() -> None:
    ours, x = gaussian(0), normal(9, *SHAPE)
    theirs = torch.distributions.Normal(ours.mean, ours.std).log_prob(x)
    torch.testing.assert_close(ours.log_prob(x), theirs.sum((1, 2, 3)))
    torch.testing.assert_close(ours.log_prob_per_dim(x), theirs.mean((1, 2, 3)))


def test_sample_is_the_mean_moved_by_std_times_noise() -> None:
    ours, noise = gaussian(0), normal(9, *SHAPE)
    assert torch.equal((ours.sample(noise) - ours.mean) / ours.std > 0, noise > 0)
    torch.testing.assert_close((ours.sample(noise) - ours.mean) / ours.std, noise)


def test_kl_is_that_of_torch() -> None:
    p, q = gaussian(0), gaussian(5)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(p.mean, p.std), torch.distributions.Normal(q.mean, q.std)
    )
    torch.testing.assert_close(p.kl(q), theirs.sum((1, 2, 3)))
    torch.testing.assert_close(p.kl_per_dim(q), theirs.mean((1, 2, 3)))
    assert not torch.allclose(p.kl(q), q.kl(p))


def test_kl_to_itself_is_exactly_zero() -> None:
    assert torch.equal(gaussian(0).kl(gaussian(0)), torch.zeros(3))


def test_a_deterministic_step_has_no_likelihood() -> None:
    proper = gaussian(0)
    point = LatentGaussian(proper.mean, proper.std * torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1, 1))
    for ask in (
        lambda: point.log_prob(point.mean),
        lambda: point.log_prob_per_dim(point.mean),
        lambda: point.kl(proper),
        lambda: proper.kl(point),
        lambda: proper.kl_per_dim(point),
    ):
        with pytest.raises(GuardError, match="std 0"):
            ask()


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_parameterizations_invert(prediction_type: str) -> None:
    sampler = DDIMSampler(stable_diffusion_schedule(prediction_type=prediction_type), 10, 1.0)
    x0, noise, steps = normal(1, *SHAPE), normal(2, *SHAPE), torch.tensor([0, 4, 9])
    level = sampler.level(steps, len(x0))
    output = level.target(x0, noise)
    found_x0, found_noise = level.predict(output, level.add_noise(x0, noise))
    # At the first step x0 is a small part of x_t, at the last the noise is: rounding grows there.
    torch.testing.assert_close(found_x0, x0, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found_noise, noise, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTIONS[1:])
def test_the_transition_does_not_depend_on_the_parameterization(prediction_type: str) -> None:
    x0, noise, steps = normal(1, *SHAPE), normal(2, *SHAPE), torch.tensor([0, 4, 9])
    transitions = []
    for kind in ("epsilon", prediction_type):
        sampler = DDIMSampler(stable_diffusion_schedule(prediction_type=kind), 10, 0.7)
        level = sampler.level(steps, len(x0))
        x_t = level.add_noise(x0, noise)
        transitions.append(sampler.transition(level.target(x0, noise), x_t, steps))
    torch.testing.assert_close(transitions[0].mean, transitions[1].mean, atol=2e-5, rtol=1e-4)
    assert torch.equal(transitions[0].std, transitions[1].std)


def test_eta_one_is_the_posterior_of_ddpm() -> None:
    """2006.11239 eq. 7: DDIM with eta 1 is ancestral sampling."""
    schedule = stable_diffusion_schedule()
    sampler = DDIMSampler(schedule, 10, 1.0)
    x_t, epsilon = normal(1, 1, *SHAPE[1:]), normal(2, 1, *SHAPE[1:])
    timesteps = schedule.timesteps(10)
    for step in range(9):
        alpha_bar = schedule.alphas_cumprod[timesteps[step]].double()
        alpha_bar_prev = schedule.alphas_cumprod[timesteps[step + 1]].double()
        beta = 1 - alpha_bar / alpha_bar_prev
        x0 = (x_t - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
        mean = alpha_bar_prev.sqrt() * beta / (1 - alpha_bar) * x0
        mean = mean + (1 - beta).sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar) * x_t
        std = (beta * (1 - alpha_bar_prev) / (1 - alpha_bar)).sqrt()
        ours = sampler.transition(epsilon, x_t, step)
        torch.testing.assert_close(ours.mean, mean.float(), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(ours.std.squeeze(), std.float())


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_eta_and_spacing_lands_on_the_data(eta: float, spacing: str) -> None:
    """Data N(m, s²) has a known best network, and each step is affine: follow mean and variance."""
    m, s = 1.5, 0.6
    schedule = stable_diffusion_schedule(final_alpha=1.0, spacing=spacing, steps_offset=0)
    # Finite steps leave a first-order error: at eta 1 it is 4.6 % for 250 of them, 2.6 % for 500.
    sampler = DDIMSampler(schedule, 500, eta)

    def transition(x: float, step: int) -> LatentGaussian:
        alpha = schedule.alphas_cumprod[sampler.timestep(step)]
        noise_level = 1 - alpha
        x_t = torch.full((1, 1, 1, 1), x)
        posterior = (x_t - alpha.sqrt() * m) / (alpha * s**2 + noise_level)
        return sampler.transition(noise_level.sqrt() * posterior, x_t, step)

    first = float(schedule.alphas_cumprod[sampler.timestep(0)])
    mean, variance = first**0.5 * m, first * s**2 + 1 - first
    for step in range(sampler.num_steps):
        at_zero, at_one = transition(0.0, step), transition(1.0, step)
        offset = at_zero.mean.item()
        slope = at_one.mean.item() - offset
        mean = offset + slope * mean
        variance = slope**2 * variance + at_zero.std.item() ** 2
    assert mean == pytest.approx(m, rel=0.01)
    assert variance == pytest.approx(s**2, rel=0.04)


def test_rows_of_different_steps_are_as_if_alone() -> None:
    sampler = DDIMSampler(stable_diffusion_schedule(), 10, 1.0)
    output, x_t, steps = normal(1, *SHAPE), normal(2, *SHAPE), torch.tensor([7, 0, 3])
    together = sampler.transition(output, x_t, steps)
    assert together.std.shape == (3, 1, 1, 1)
    assert torch.equal(sampler.timestep(steps), torch.tensor([201, 901, 601]))
    for row, step in enumerate(steps.tolist()):
        alone = sampler.transition(output[row : row + 1], x_t[row : row + 1], step)
        assert torch.equal(alone.mean[0], together.mean[row])
        assert torch.equal(alone.std[0], together.std[row])


def test_arithmetic_is_in_single_precision_whatever_comes_in() -> None:
    sampler = DDIMSampler(stable_diffusion_schedule(), 10, 1.0)
    output, x_t = normal(1, *SHAPE).half(), normal(2, *SHAPE).half()
    half = sampler.transition(output, x_t, 3)
    single = sampler.transition(output.float(), x_t.float(), 3)
    assert half.mean.dtype == torch.float32
    assert torch.equal(half.mean, single.mean)
    assert torch.equal(half.log_prob(x_t), single.log_prob(x_t.float()))


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("leading", [801, 601, 401, 201, 1]),
        ("trailing", [999, 799, 599, 399, 199]),
        ("linspace", [999, 749, 500, 250, 0]),
    ],
)
def test_timesteps_of_each_spacing(spacing: str, expected: list[int]) -> None:
    schedule = stable_diffusion_schedule(spacing=spacing)
    assert schedule.timesteps(5).tolist() == expected
    assert schedule.timesteps(1).tolist() == [1 if spacing == "leading" else 999]


def test_levels_are_drawn_from_the_steps_or_from_all_timesteps() -> None:
    sampler = DDIMSampler(stable_diffusion_schedule(), 5, eta=1.0)
    generator = torch.Generator().manual_seed(0)
    drawn = sampler.draw_level(100, generator, "sampler").timestep
    assert set(drawn.tolist()) == {801, 601, 401, 201, 1}
    drawn = sampler.draw_level(100, generator, "training").timestep
    assert len(set(drawn.tolist())) > 80
    assert 0 <= int(drawn.min()) < 50
    assert 950 < int(drawn.max()) < 1000


def test_which_steps_have_a_density() -> None:
    everywhere = DDIMSampler(stable_diffusion_schedule(), 5, 1.0)
    all_but_last = DDIMSampler(stable_diffusion_schedule(final_alpha=1.0), 5, 1.0)
    assert everywhere.stochastic_steps == (0, 1, 2, 3, 4)
    assert all_but_last.stochastic_steps == (0, 1, 2, 3)
    assert DDIMSampler(stable_diffusion_schedule(), 5, 0.0).stochastic_steps == ()


def test_zero_terminal_signal() -> None:
    alphas = torch.linspace(0.999, 0.0, 100)
    ends_in_noise = NoiseSchedule(alphas, 1.0, "v_prediction", "trailing")
    first = DDIMSampler(ends_in_noise, 4, 1.0).transition(normal(1, *SHAPE), normal(2, *SHAPE), 0)
    assert bool(first.mean.isfinite().all())
    with pytest.raises(ModelError, match="v_prediction"):
        DDIMSampler(NoiseSchedule(alphas, 1.0, "epsilon", "trailing"), 4, 1.0)


def test_what_is_refused() -> None:
    schedule = stable_diffusion_schedule()
    for num_steps in (0, 1001):
        with pytest.raises(SettingsError, match="1 to 1000"):
            DDIMSampler(schedule, num_steps, 1.0)
    with pytest.raises(SettingsError, match="leaves the schedule"):
        DDIMSampler(schedule, 1000, 1.0)
    for eta in (-0.1, 1.1):
        with pytest.raises(SettingsError, match="0 to 1"):
            DDIMSampler(schedule, 10, eta)
    with pytest.raises(ModelError, match="epsilon, sample, v_prediction"):
        stable_diffusion_schedule(prediction_type="flow")
    with pytest.raises(ModelError, match="leading, trailing, linspace"):
        stable_diffusion_schedule(spacing="karras")


def test_shapes_are_what_the_annotations_say() -> None:
    checked = jaxtyped(typechecker=beartype)(DDIMSampler.transition)
    sampler = DDIMSampler(stable_diffusion_schedule(), 10, 1.0)
    assert checked(sampler, normal(1, *SHAPE), normal(2, *SHAPE), 3).mean.shape == SHAPE
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation)):
        # torch alone would broadcast this to a mean of the wrong size.
        checked(sampler, normal(1, 1, *SHAPE[1:]), normal(2, *SHAPE), 3)
