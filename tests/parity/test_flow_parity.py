"""Our flow step, our text and our loop against diffusers' own, for the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import Policy, load_policy, sample_images
from components.diffusion.flow_sampler import FlowSampler
from tests.diffusion.conftest import train_a_little
from tests.support.schedules import normal
from tests.support.tiny import TEXT_LENGTH
from tests.support.tiny_flow import FLOW_SCHEDULER, tiny_flow_base

PROMPTS, SEEDS = ["a red cat", "two dogs", "a red cat"], [11, 12, 13]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flow_base(tmp_path_factory.mktemp("tiny_flow"))


@pytest.mark.parametrize("sde", ["flow_grpo", "dance", "cps"])
@pytest.mark.parametrize("num_steps", [1, 7])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_without_noise_a_step_is_that_of_the_scheduler(
    shift: float, num_steps: int, sde: Any
) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(**FLOW_SCHEDULER | {"shift": shift})
    scheduler.set_timesteps(num_steps)
    sampler = FlowSampler(scheduler.sigmas, 0.0, sde)
    assert sampler.num_steps == num_steps
    for step, timestep in enumerate(scheduler.timesteps):
        assert sampler.timestep(step) == timestep
        output, x_t = normal(2 * step, 2, 4, 8, 8), normal(2 * step + 1, 2, 4, 8, 8)
        theirs = scheduler.step(output, timestep, x_t).prev_sample
        ours = sampler.transition(output, x_t, step)
        assert float(ours.std.abs().max()) == 0.0
        torch.testing.assert_close(ours.mean, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_text_is_that_of_the_pipeline(base: Path, guidance_scale: float) -> None:
    policy, pipe = open_policy(base, guidance_scale), plain_pipeline(base)
    text = policy.encode_prompts(PROMPTS)
    states, empty, pooled, empty_pooled = pipe.encode_prompt(
        PROMPTS,
        None,
        None,
        max_sequence_length=TEXT_LENGTH,
        do_classifier_free_guidance=guidance_scale > 1,
    )
    torch.testing.assert_close(text.prompt_states, states, atol=1e-5, rtol=1e-5)
    assert text.pooled is not None
    torch.testing.assert_close(text.pooled[text.prompt_of_row], pooled, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-2)
    if guidance_scale > 1:
        torch.testing.assert_close(text.unconditional, empty[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(text.unconditional_pooled, empty_pooled[0], atol=1e-5, rtol=1e-5)
    else:
        assert text.unconditional is None and text.unconditional_pooled is None


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_ten_steps_are_those_of_the_pipeline(base: Path, guidance_scale: float) -> None:
    images, x0 = sample_images(open_policy(base, guidance_scale), PROMPTS, SEEDS)
    pipe = plain_pipeline(base)
    latents = drawn(pipe, guidance_scale, output_type="latent")
    torch.testing.assert_close(x0, latents, atol=1e-3, rtol=1e-3)
    assert_same_images(images, drawn(pipe, guidance_scale, output_type="pt"))


def test_plain_diffusers_draws_the_same_images_with_the_lora(base: Path, tmp_path: Path) -> None:
    policy = open_policy(base, 4.0)
    before, _ = sample_images(policy, PROMPTS, SEEDS)
    train_a_little(policy).save_lora(tmp_path)
    images, _ = sample_images(policy, PROMPTS, SEEDS)
    assert (images != before).float().mean() > 0.3
    pipe = plain_pipeline(base)
    pipe.load_lora_weights(tmp_path)
    (config,) = pipe.transformer.peft_config.values()
    assert (config.r, config.lora_alpha) == (4, 16)
    assert_same_images(images, drawn(pipe, 4.0, output_type="pt"))


def open_policy(base: Path, guidance_scale: float) -> Policy:
    settings = BaseSettings(
        path=str(base), num_steps=10, noise_level=0.0, guidance_scale=guidance_scale, batch_size=3
    )
    return load_policy(settings, ComputeSettings(device="cpu", threads=1))


def plain_pipeline(base: Path) -> Any:
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(base, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, guidance_scale: float, output_type: str) -> torch.Tensor:
    images: torch.Tensor = pipe(
        PROMPTS,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        sigmas=[1 - step / 10 for step in range(10)],
        guidance_scale=guidance_scale,
        max_sequence_length=TEXT_LENGTH,
        output_type=output_type,
    ).images
    return images


def assert_same_images(images: torch.Tensor, pixels: torch.Tensor) -> None:
    theirs = (pixels * 255).round().to(torch.uint8)
    assert (images.int() - theirs.int()).abs().max() <= 1
    assert (images == theirs).float().mean() > 0.99
