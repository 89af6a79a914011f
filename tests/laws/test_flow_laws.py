"""What must hold for a flow's steps and for a flow's policy, whatever the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError, jaxtyped
from torch import Tensor

from components.contracts.errors import ModelError, SettingsError
from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import DDIMSampler, LatentGaussian, Policy, load_policy, rollout
from components.diffusion.flow_sampler import FlowSampler, flow_sampler
from tests.diffusion.conftest import train_a_little
from tests.support.schedules import normal, stable_diffusion_schedule
from tests.support.tiny_flow import tiny_flow_base

SHAPE = (3, 4, 5, 6)
SDES = ("flow_grpo", "dance", "cps")
PROMPTS = ["a red cat", "two dogs", "a red cat", "a blue car", "two dogs"]


def sigmas(num_steps: int, shift: float = 1.0) -> Tensor:
    """Falling from 1 to 0, as SD3's scheduler shifts them."""
    even = torch.linspace(1, 0, num_steps + 1)
    return shift * even / (1 + (shift - 1) * even)


@pytest.mark.parametrize("sde", SDES)
def test_log_prob_is_that_of_torch(sde: str) -> None:
    sampler = FlowSampler(sigmas(5, 3.0), 0.7, sde)
    output, x_t, x = normal(1, *SHAPE), normal(2, *SHAPE), normal(3, *SHAPE)
    step = torch.tensor([0, 2, 3])
    ours = sampler.transition(output, x_t, step)
    theirs = torch.distributions.Normal(ours.mean, ours.std).log_prob(x)
    torch.testing.assert_close(ours.log_prob(x), theirs.sum((1, 2, 3)))
    torch.testing.assert_close(ours.log_prob_per_dim(x), theirs.mean((1, 2, 3)))


def test_parameterizations_invert() -> None:
    sampler = FlowSampler(sigmas(5, 3.0), 0.7)
    x0, noise, steps = normal(1, *SHAPE), normal(2, *SHAPE), torch.tensor([0, 2, 4])
    level = sampler.level(steps, len(x0))
    x_t, velocity = level.add_noise(x0, noise), level.target(x0, noise)
    # The flow's own convention: noise minus data, along the straight line between them.
    sigma = sampler.sigmas[steps].view(-1, 1, 1, 1)
    torch.testing.assert_close(x_t, (1 - sigma) * x0 + sigma * noise)
    torch.testing.assert_close(velocity, noise - x0)
    found_x0, found_noise = level.predict(velocity, x_t)
    torch.testing.assert_close(found_x0, x0, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found_noise, noise, atol=2e-6, rtol=1e-5)
    assert torch.equal(level.timestep, 1000 * sampler.sigmas[steps])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("sde", "noise_level"),
    [("flow_grpo", 0.0), ("flow_grpo", 0.3), ("flow_grpo", 0.7), ("dance", 0.3), ("dance", 0.7)],
)
def test_the_sde_keeps_the_marginals_of_the_flow(
    sde: str, noise_level: float, shift: float
) -> None:
    """Data N(m, s²) has a known best network, and each step is affine: follow mean and variance."""
    m, s = 1.5, 0.6
    # 500 steps leave 1 % of the variance. Without the SDE's correction of the drift it would be
    # 0.44 and more where 0.36 is right, with twice the correction 0.29 and less.
    sampler = FlowSampler(sigmas(500, shift), noise_level, sde)
    mean, variance = 0.0, 1.0
    for step in range(sampler.num_steps):
        transition = best_step(sampler, step, m, s)
        at_zero, at_one = transition(0.0), transition(1.0)
        offset = at_zero.mean.item()
        slope = at_one.mean.item() - offset
        mean = offset + slope * mean
        variance = slope**2 * variance + at_zero.std.item() ** 2
        if step == 250:
            sigma = float(sampler.sigmas[step + 1])
            assert variance == pytest.approx((1 - sigma) ** 2 * s**2 + sigma**2, rel=0.02)
    assert mean == pytest.approx(m, rel=1e-3)
    assert variance == pytest.approx(s**2, rel=0.015)


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_cps_keeps_the_coefficients_of_a_single_point_at_any_number_of_steps(
    noise_level: float,
) -> None:
    """Where x0 is known, each step lands on N((1 - σ) x0, σ²) exactly: the others do not.

    Its noise does not shrink with the step, so that spread-out data lose variance: 0.26 of 0.36 at
    a noise level of 0.7, with however many steps.
    """
    point = 1.5
    for num_steps in (2, 5):
        sampler = FlowSampler(sigmas(num_steps, 3.0), noise_level, "cps")
        mean, variance = 0.0, 1.0
        for step in range(num_steps):
            transition = best_step(sampler, step, point, 0.0)
            at_zero, at_one = transition(0.0), transition(1.0)
            slope = at_one.mean.item() - at_zero.mean.item()
            mean = at_zero.mean.item() + slope * mean
            variance = slope**2 * variance + at_zero.std.item() ** 2
            sigma = float(sampler.sigmas[step + 1])
            assert mean == pytest.approx((1 - sigma) * point, abs=1e-5)
            assert variance == pytest.approx(sigma**2, abs=1e-5)
    sampler = FlowSampler(sigmas(5), 0.7, "cps")
    # sin(0.7 · π/2) = 0.8910: this share of the noise is new.
    assert sampler.transition(*[torch.zeros(1, 1, 1, 1)] * 2, 1).std.item() == pytest.approx(
        0.6 * 0.8910065, rel=1e-5
    )


def best_step(
    sampler: FlowSampler, step: int, m: float, s: float
) -> Callable[[float], LatentGaussian]:
    """A step with the best network for data N(m, s²), as a function of x_t."""
    sigma = float(sampler.sigmas[step])
    spread = (1 - sigma) ** 2 * s**2 + sigma**2

    def transition(x: float) -> LatentGaussian:
        offset = (x - (1 - sigma) * m) / spread
        x0, noise = m + (1 - sigma) * s**2 * offset, sigma * offset
        return sampler.transition(
            torch.full((1, 1, 1, 1), noise - x0), torch.full((1, 1, 1, 1), x), step
        )

    return transition


def test_a_step_of_each_sde_worked_by_hand() -> None:
    """σ 0.5 to 0.25, v = 2, x = 1: ε̂ = 1 + 0.5·2 = 2, x̂0 = 1 - 0.5·2 = 0, dt = -0.25, a = 0.6."""
    grid = torch.tensor([1.0, 0.5, 0.25, 0.0])
    x, v = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    # g² = 0.36·0.5/0.5: mean 1 - 0.5 + 0.36/(2·0.5)·2·(-0.25), std 0.6·0.5.
    # g² = 0.36 as well with the constant noise.
    # cps: 0.75·0 + 0.25·cos(0.3π)·2, 0.25·sin(0.3π).
    expected = {
        "flow_grpo": (0.32, 0.3),
        "dance": (0.32, 0.3),
        "cps": (0.5 * math.cos(0.3 * math.pi), 0.25 * math.sin(0.3 * math.pi)),
    }
    for sde, (mean, std) in expected.items():
        found = FlowSampler(grid, 0.6, sde).transition(v, x, 1)
        assert found.mean.item() == pytest.approx(mean, rel=1e-5)
        assert found.std.item() == pytest.approx(std, rel=1e-5)
    # The first step, σ = 1 to 0.5: ε̂ = x = 1, dt = -0.5. g² = 0.36·1/(1 - 0.5) with the next σ in
    # place of 1 (Flow-GRPO), 0.36 with constant noise.
    first = FlowSampler(grid, 0.6, "flow_grpo").transition(v, x, 0)
    assert first.mean.item() == pytest.approx(1 - 1 + 0.72 / 2 * 1 * -0.5, rel=1e-5)
    assert first.std.item() == pytest.approx(0.6, rel=1e-5)
    constant = FlowSampler(grid, 0.6, "dance").transition(v, x, 0)
    assert constant.mean.item() == pytest.approx(0.36 / 2 * 1 * -0.5, rel=1e-5)
    assert constant.std.item() == pytest.approx(0.6 * math.sqrt(0.5), rel=1e-5)


@pytest.mark.parametrize("sde", SDES)
def test_noise_only_at_some_steps(sde: str) -> None:
    everywhere = FlowSampler(sigmas(5, 3.0), 0.7, sde)
    assert everywhere.stochastic_steps == (0, 1, 2, 3)
    window = everywhere.noisy_only_at([1, 2])
    ode = FlowSampler(sigmas(5, 3.0), 0.0, sde)
    assert window.stochastic_steps == (1, 2)
    assert ode.stochastic_steps == ()
    output, x_t = normal(1, *SHAPE), normal(2, *SHAPE)
    for step in range(5):
        found = window.transition(output, x_t, step)
        expected = (everywhere if step in (1, 2) else ode).transition(output, x_t, step)
        # To the bit: losses score the window's steps with the sampler of all steps.
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.std, expected.std)
        assert torch.equal(window.timestep(step), everywhere.timestep(step))
    assert everywhere.noisy_only_at([]).stochastic_steps == ()
    # The last step lands on the clean latent whatever is asked.
    assert everywhere.noisy_only_at([3, 4]).stochastic_steps == (3,)


@pytest.mark.parametrize("sde", SDES)
def test_rows_of_different_steps_are_as_if_alone(sde: str) -> None:
    sampler = FlowSampler(sigmas(5, 3.0), 0.7, sde)
    output, x_t, steps = normal(1, *SHAPE), normal(2, *SHAPE), torch.tensor([3, 0, 1])
    together = sampler.transition(output, x_t, steps)
    assert together.std.shape == (3, 1, 1, 1)
    for row, step in enumerate(steps.tolist()):
        alone = sampler.transition(output[row : row + 1], x_t[row : row + 1], step)
        assert torch.equal(alone.mean[0], together.mean[row])
        assert torch.equal(alone.std[0], together.std[row])
        assert torch.equal(sampler.timestep(steps)[row], sampler.timestep(step))
        assert torch.equal(sampler.step_size(steps, 3)[row], sampler.step_size(step, 1)[0])


def test_step_sizes_are_what_the_noise_level_falls_by() -> None:
    sampler = FlowSampler(sigmas(5, 3.0), 0.7)
    sizes = torch.stack([sampler.step_size(step, 2) for step in range(5)])
    assert sizes.shape == (5, 2, 1, 1, 1)
    torch.testing.assert_close(sizes[:, 1].flatten(), -sigmas(5, 3.0).diff())
    assert float(sizes[:, 0].sum()) == pytest.approx(1.0)


def test_levels_are_drawn_from_the_steps_or_from_all() -> None:
    sampler = FlowSampler(sigmas(4, 3.0), 0.7)
    generator = torch.Generator().manual_seed(0)
    level = sampler.draw_level(400, generator)
    counts = {value: int((level.timestep == value).sum()) for value in level.timestep.unique()}
    assert sorted(counts) == sorted((1000 * sampler.sigmas[:-1]).tolist())
    assert all(60 < count < 140 for count in counts.values())
    level = sampler.draw_level(400, generator, "training")
    torch.testing.assert_close(level.signal + level.noise, torch.ones(400, 1, 1, 1))
    torch.testing.assert_close(level.timestep, 1000 * level.noise.flatten())
    assert 0 < float(level.noise.min()) < 0.02 and 0.98 < float(level.noise.max()) <= 1
    assert float(level.noise.mean()) == pytest.approx(0.5, abs=0.05)


def test_arithmetic_is_in_single_precision_whatever_comes_in() -> None:
    sampler = FlowSampler(sigmas(5, 3.0), 0.7)
    output, x_t = normal(1, *SHAPE).half(), normal(2, *SHAPE).half()
    half = sampler.transition(output, x_t, 2)
    single = sampler.transition(output.float(), x_t.float(), 2)
    assert half.mean.dtype == torch.float32
    assert torch.equal(half.mean, single.mean)
    assert torch.equal(half.log_prob(x_t), single.log_prob(x_t.float()))


def test_what_is_refused() -> None:
    with pytest.raises(SettingsError, match="flow_grpo, dance, cps"):
        FlowSampler(sigmas(4), 0.7, "ddim")  # type: ignore[arg-type]
    for noise_level, sde, highest in ((-0.1, "dance", "10"), (1.1, "cps", "1 with cps")):
        with pytest.raises(SettingsError, match=f"0 to {highest}"):
            FlowSampler(sigmas(4), noise_level, sde)  # type: ignore[arg-type]
    for grid in ([1.0, 0.5, 0.1], [1.0, 0.5, 0.5, 0.0], [0.0, 1.0], [1.2, 0.5, 0.0]):
        with pytest.raises(ModelError, match="do not fall from at most 1 to 0"):
            FlowSampler(torch.tensor(grid), 0.7)
    with pytest.raises(SettingsError, match="step 4; allowed: 0 to 3"):
        FlowSampler(sigmas(4), 0.7).noisy_only_at([4])
    sampler = FlowSampler(sigmas(4), 0.7)
    assert flow_sampler(sampler) is sampler
    with pytest.raises(SettingsError, match="defined for flow models"):
        flow_sampler(DDIMSampler(stable_diffusion_schedule(), 4, 1.0))


def test_shapes_are_what_the_annotations_say() -> None:
    checked = jaxtyped(typechecker=beartype)(FlowSampler.transition)
    sampler = FlowSampler(sigmas(4), 0.7)
    assert checked(sampler, normal(1, *SHAPE), normal(2, *SHAPE), 3).mean.shape == SHAPE
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation)):
        checked(sampler, normal(1, 1, *SHAPE[1:]), normal(2, *SHAPE), 3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flow_base(tmp_path_factory.mktemp("tiny_flow"))


def open_policy(base: Path, **settings: Any) -> Policy:
    defaults = {"path": str(base), "num_steps": 4, "batch_size": 4}
    compute = ComputeSettings(device="cpu", threads=1)
    return load_policy(BaseSettings(**(defaults | settings)), compute)


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_replay_is_the_rollout_to_the_bit(base: Path, sde: str, guidance_scale: float) -> None:
    policy = train_a_little(open_policy(base, flow_sde=sde, guidance_scale=guidance_scale))
    text = policy.encode_prompts(PROMPTS)
    drawn = rollout(policy, text, range(5), keep_means=True)
    assert drawn.means is not None
    assert drawn.latents.shape == (5, 5, *policy.latent_shape)
    assert torch.equal(drawn.log_probs.isnan().any(0), torch.tensor([False] * 3 + [True]))
    # Rows of all images and steps, shuffled and in batches of their own, with a graph.
    image, step = torch.cartesian_prod(torch.arange(5), torch.arange(3))[
        torch.randperm(15, generator=torch.Generator().manual_seed(0))
    ].unbind(1)
    for rows in torch.arange(15).split(7):
        i, s = image[rows], step[rows]
        taken = policy.transition(drawn.latents[i, s], s, text[i])
        log_ratio = taken.log_prob_per_dim(drawn.latents[i, s + 1]) - drawn.log_probs[i, s]
        assert log_ratio.requires_grad
        assert torch.equal(log_ratio, torch.zeros_like(log_ratio))
        assert torch.equal(taken.mean, drawn.means[i, s])


def test_guidance_mixes_the_prompt_with_the_empty_one(base: Path) -> None:
    plain, guided = open_policy(base), open_policy(base, guidance_scale=3.0)
    x_t = normal(0, 4, *plain.latent_shape)
    with_prompt = plain.predict(x_t, 1, plain.encode_prompts(PROMPTS[:4]))
    without = plain.predict(x_t, 1, plain.encode_prompts([""] * 4))
    found = guided.predict(x_t, 1, guided.encode_prompts(PROMPTS[:4]))
    torch.testing.assert_close(found, without + 3.0 * (with_prompt - without))
    assert not torch.allclose(with_prompt, without, atol=1e-3)


def test_only_the_adapter_learns_and_the_base_stays(base: Path) -> None:
    policy = open_policy(base)
    text, x_t = policy.encode_prompts(PROMPTS[:4]), normal(0, 4, *policy.latent_shape)
    before = policy.predict(x_t, 1, text)
    digest = policy.digest
    # Two blocks with eight projections, the last one without an output for the text.
    assert len(policy.add_adapter(4, 8, generator=torch.Generator())) == 15
    assert torch.equal(policy.predict(x_t, 1, text), before)
    policy.predict(x_t, 1, text).sum().backward()
    learning = {name for name, p in policy._network.module.named_parameters() if p.grad is not None}
    assert learning == {name for name, _ in policy.trainable_parameters()}
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.add_(0.1)
    assert not torch.equal(policy.predict(x_t, 1, text), before)
    assert torch.equal(policy.predict(x_t, 1, text, "reference"), before)
    assert policy.digest == digest == open_policy(base, num_steps=7).digest


def test_a_saved_adapter_comes_back(base: Path, tmp_path: Path) -> None:
    policy = train_a_little(open_policy(base))
    policy.save_lora(tmp_path)
    reopened = open_policy(base)
    reopened.load_lora(tmp_path)
    text, x_t = policy.encode_prompts(PROMPTS[:4]), normal(0, 4, *policy.latent_shape)
    assert torch.equal(reopened.predict(x_t, 2, text), policy.predict(x_t, 2, text))
    assert not torch.equal(
        reopened.predict(x_t, 2, text, "reference"), policy.predict(x_t, 2, text)
    )
    # It names its network, so that no U-Net takes it.
    from safetensors import safe_open

    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", framework="pt") as file:
        assert all(key.startswith("transformer.") for key in file.keys())  # noqa: SIM118


def test_a_scheduler_that_this_loader_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = tiny_flow_base(tmp_path, use_dynamic_shifting=True)
    with pytest.raises(ModelError, match=r"scheduler: shifts its noise levels .* allowed: "):
        open_policy(folder)
