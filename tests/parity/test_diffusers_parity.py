"""Our step and our loop against diffusers' own, for the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import DDIMSampler, load_policy, sample_images
from tests.support.schedules import normal, stable_diffusion_schedule
from tests.support.tiny import SCHEDULER, tiny_base

PROMPTS, SEEDS = ["a red cat", "two dogs", "a red cat"], [11, 12, 13]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_transition_is_ddim_scheduler_step(
    eta: float, prediction_type: str, spacing: str, to_one: bool
) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        **SCHEDULER
        | {
            "prediction_type": prediction_type,
            "timestep_spacing": spacing,
            "set_alpha_to_one": to_one,
        }
    )
    scheduler.set_timesteps(10)
    sampler = DDIMSampler(
        stable_diffusion_schedule(
            1.0 if to_one else None, prediction_type=prediction_type, spacing=spacing
        ),
        10,
        eta,
    )
    x_t, output, noise = (normal(seed, 2, 4, 8, 8) for seed in (1, 2, 3))
    for step, timestep in enumerate(scheduler.timesteps):
        assert sampler.timestep(step) == timestep
        theirs = scheduler.step(output, timestep, x_t, eta=eta, variance_noise=noise).prev_sample
        ours = sampler.transition(output, x_t, step).sample(noise)
        # diffusers subtracts numbers near 1 in single precision.
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("eta", "guidance_scale"), [(0.0, 1.0), (0.0, 4.0), (1.0, 1.0), (1.0, 4.0)]
)
def test_ten_steps_are_those_of_the_pipeline(base: Path, eta: float, guidance_scale: float) -> None:
    settings = BaseSettings(
        path=str(base), num_steps=10, eta=eta, guidance_scale=guidance_scale, batch_size=3
    )
    policy = load_policy(settings, ComputeSettings(device="cpu", threads=1))
    images, x0 = sample_images(policy, PROMPTS, SEEDS)
    pipe = plain_pipeline(base)
    drawing: dict[str, Any] = {
        "num_inference_steps": 10,
        "eta": eta,
        "guidance_scale": guidance_scale,
    }
    latents = pipe(PROMPTS, generator=generators(), output_type="latent", **drawing).images
    pixels = pipe(PROMPTS, generator=generators(), output_type="pt", **drawing).images
    torch.testing.assert_close(x0, latents, atol=1e-3, rtol=1e-3)
    drawn = (pixels * 255).round().to(torch.uint8)
    assert (images.int() - drawn.int()).abs().max() <= 1
    assert (images == drawn).float().mean() > 0.99


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def plain_pipeline(base: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe
