"""Our consistency step and our loop against diffusers' own, for the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import load_policy, sample_images
from components.diffusion.consistency_sampler import ConsistencySampler
from components.diffusion.networks import guidance_embedding
from tests.support.schedules import normal, stable_diffusion_schedule
from tests.support.tiny_consistency import tiny_consistency_base

PROMPTS, SEEDS = ["a red cat", "two dogs", "a red cat"], [11, 12, 13]
SHAPE = (2, 4, 8, 8)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_consistency")
    return tiny_consistency_base(folder, prediction_type=request.param)


@pytest.mark.parametrize("original", [50, 40])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 8])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_transition_is_lcm_scheduler_step(
    prediction_type: str, num_steps: int, original: int
) -> None:
    from diffusers import LCMScheduler

    scheduler = LCMScheduler(prediction_type=prediction_type, original_inference_steps=original)
    scheduler.set_timesteps(num_steps)
    sampler = ConsistencySampler(
        stable_diffusion_schedule(prediction_type=prediction_type),
        num_steps,
        original_inference_steps=original,
    )
    assert len(scheduler.timesteps) == sampler.num_steps
    for step, timestep in enumerate(scheduler.timesteps):
        assert sampler.timestep(step) == timestep
        output, x_t = normal(2 * step, *SHAPE), normal(2 * step + 1, *SHAPE)
        theirs = scheduler.step(
            output, timestep, x_t, generator=torch.Generator().manual_seed(step)
        )
        transition = sampler.transition(output, x_t, step)
        # The alphas are products of up to a thousand numbers, theirs in single precision.
        torch.testing.assert_close(
            transition.sample(normal(step, *SHAPE)), theirs.prev_sample, atol=2e-4, rtol=2e-4
        )
        found = sampler.consistency(output, x_t, step)
        torch.testing.assert_close(found, theirs.denoised, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("timestep_scaling", [10.0, 0.001])
def test_the_boundary_scalings_are_theirs(timestep_scaling: float) -> None:
    """With a scaling of 10, c_skip is 7e-6 at most and no test of whole steps would see it."""
    from diffusers import LCMScheduler

    scheduler = LCMScheduler(prediction_type="sample", timestep_scaling=timestep_scaling)
    scheduler.set_timesteps(8)
    sampler = ConsistencySampler(
        stable_diffusion_schedule(prediction_type="sample"), 8, timestep_scaling=timestep_scaling
    )
    one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    for step, timestep in enumerate(scheduler.timesteps):
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        assert sampler.consistency(none, one, step).item() == pytest.approx(float(c_skip), rel=1e-5)
        assert sampler.consistency(one, none, step).item() == pytest.approx(float(c_out), rel=1e-5)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
def test_the_guidance_weight_is_embedded_as_in_the_pipeline(guidance_scale: float) -> None:
    from diffusers import LatentConsistencyModelPipeline

    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, torch.tensor([guidance_scale - 1]), embedding_dim=16
    )
    torch.testing.assert_close(guidance_embedding(guidance_scale, 16), theirs[0])


@pytest.mark.parametrize(("num_steps", "guidance_scale"), [(1, 3.0), (4, 1.0), (4, 3.0)])
def test_the_loop_is_that_of_the_pipeline(
    base: Path, num_steps: int, guidance_scale: float
) -> None:
    settings = BaseSettings(
        path=str(base), num_steps=num_steps, guidance_scale=guidance_scale, batch_size=3
    )
    policy = load_policy(settings, ComputeSettings(device="cpu", threads=1))
    images, x0 = sample_images(policy, PROMPTS, SEEDS)
    pipe = plain_pipeline(base)
    drawing: dict[str, Any] = {"num_inference_steps": num_steps, "guidance_scale": guidance_scale}
    latents = pipe(PROMPTS, generator=generators(), output_type="latent", **drawing).images
    pixels = pipe(PROMPTS, generator=generators(), output_type="pt", **drawing).images
    torch.testing.assert_close(x0, latents, atol=1e-3, rtol=1e-3)
    drawn = (pixels * 255).round().to(torch.uint8)
    assert (images.int() - drawn.int()).abs().max() <= 1
    assert (images == drawn).float().mean() > 0.99


def test_the_network_is_told_the_guidance_weight(base: Path) -> None:
    """Else the parity above would hold for a weight that changes nothing."""
    pictures = []
    for guidance_scale in (1.0, 3.0):
        settings = BaseSettings(
            path=str(base), num_steps=2, guidance_scale=guidance_scale, batch_size=3
        )
        policy = load_policy(settings, ComputeSettings(device="cpu", threads=1))
        pictures.append(sample_images(policy, PROMPTS, SEEDS)[1])
    assert (pictures[0] - pictures[1]).abs().max() > 0.01


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def plain_pipeline(base: Path) -> Any:
    from diffusers import LatentConsistencyModelPipeline

    pipe = LatentConsistencyModelPipeline.from_pretrained(base, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe
