"""The consistency model of the miniature world: the mathematics of its training, its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import load_policy, sample_images
from components.miniature import judge as judges
from components.miniature import training
from components.miniature.figures import CONSISTENCY_DIR, draw_consistency, load_consistency
from components.miniature.scenes import read_prompts
from components.miniature.train_consistency import (
    Distillation,
    NoisePath,
    embed_guidance,
    load_teacher,
    new_scheduler,
    new_unet,
    pseudo_huber,
)
from tests.support.schedules import normal

SHAPE = (3, 8, 16, 16)
PROMPTS = ["a green rabbit", "four wolves", "a cat and a dog", "a dog on the moon"] * 2


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load_consistency()


@pytest.fixture(scope="module")
def teacher() -> Any:
    return load_teacher()[0]


def test_a_solver_step_is_that_of_ddim() -> None:
    ddim = DDIMScheduler.from_pretrained(training.ROOM / "base" / "scheduler")
    ddim.set_timesteps(10)  # "trailing": 999, 899, ..., a hundred timesteps each
    path, x_t, v = NoisePath(new_scheduler()), normal(1, *SHAPE), normal(2, *SHAPE)
    for timestep in (999, 499):
        theirs = ddim.step(v, timestep, x_t, eta=0.0).prev_sample
        ours = path.ddim(x_t, v, torch.full((3,), timestep), torch.full((3,), timestep - 100))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_consistency_function_is_that_of_the_scheduler() -> None:
    scheduler = new_scheduler()
    scheduler.set_timesteps(4)
    x_t, v = normal(1, *SHAPE), normal(2, *SHAPE)
    for timestep in scheduler.timesteps:
        ours = NoisePath(new_scheduler()).consistency(x_t, v, timestep.expand(3))
        theirs = scheduler.step(v, timestep, x_t, generator=torch.Generator()).denoised
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_boundary_condition_holds_for_any_network_output() -> None:
    path, x_t = NoisePath(new_scheduler()), normal(1, *SHAPE)
    at_zero = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(path.consistency(x_t, 100 * normal(2, *SHAPE), at_zero), x_t)
    later = path.consistency(x_t, normal(2, *SHAPE), at_zero + 19)
    assert not torch.allclose(later, x_t, atol=1e-2)


def test_the_pseudo_huber_loss() -> None:
    """Worked by hand for a width of 0.75: √(1² + 0.75²) - 0.75 = 0.5, and 0 for 0."""
    assert pseudo_huber(torch.tensor([1.0, 0.0]), 0.75).item() == pytest.approx(0.25)
    assert pseudo_huber(torch.tensor([-1.0]), 0.75).item() == pytest.approx(0.5)


def test_the_network_starts_as_the_base_model_whatever_the_guidance(teacher: Any) -> None:
    x_t, timestep, states = normal(1, *SHAPE), torch.tensor([19, 499, 999]), normal(2, 3, 12, 128)
    told = embed_guidance(torch.tensor([1.0, 3.0, 5.0]))
    with torch.no_grad():
        student = new_unet(teacher)(x_t, timestep, states, timestep_cond=told).sample
        torch.testing.assert_close(student, teacher(x_t, timestep, states).sample)


def test_the_slow_copy_follows_and_is_not_trained(teacher: Any) -> None:
    distillation = Distillation(teacher)
    names = [name for name, _ in distillation.named_parameters()]
    assert names and all(name.startswith("unet.") for name in names)
    assert len(names) == len(dict(distillation.target.named_buffers()))
    before = {key: value.clone() for key, value in distillation.target.named_buffers()}
    with torch.no_grad():
        for index, parameter in enumerate(distillation.unet.parameters()):
            parameter.add_(1 + index)
    distillation.follow(0.75)
    moved = dict(distillation.target.named_buffers())
    for index, (key, _) in enumerate(distillation.unet.named_parameters()):
        shift = moved[key] - before[key]
        torch.testing.assert_close(shift, torch.full_like(shift, 0.25 * (1 + index)))


def test_the_pipeline_opens_and_draws_finite_pictures(pipeline: Any) -> None:
    assert type(pipeline.scheduler) is LCMScheduler
    written = pipeline.scheduler.config
    for key, value in new_scheduler().config.items():
        assert key.startswith("_") or written[key] == value
    for num_steps in (1, 2, 8):
        latents = pipeline(
            PROMPTS[:2],
            num_inference_steps=num_steps,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(1),
            output_type="latent",
        ).images
        assert latents.shape == (2, 8, 16, 16)
        assert bool(latents.isfinite().all())
        assert 0.3 < latents.std() < 3


def test_it_draws_what_is_asked_in_four_steps(pipeline: Any) -> None:
    judge = judges.load()
    prompts = [prompt for prompt, task in read_prompts() if task in ("plain", "count")][::4]
    images = draw_consistency(pipeline, prompts, 1, num_steps=4, guidance_scale=3.0)
    assert images.shape == (len(prompts), 3, 64, 64) and images.dtype == torch.uint8
    assert judge.correct(images, prompts).float().mean() > 0.5


def test_one_pass_lands_nearer_to_the_end_of_the_path_than_the_base_model(
    pipeline: Any, teacher: Any
) -> None:
    """What distillation is for; the base model alone sees a blur at the noisiest level."""
    path, guidance_scale = NoisePath(new_scheduler()), torch.tensor(3.0)
    states, empty = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    start = normal(3, len(PROMPTS), 8, 16, 16)

    def guided(x_t: Tensor, timestep: Tensor) -> Tensor:
        without = teacher(x_t, timestep, empty).sample
        with_prompt = teacher(x_t, timestep, states).sample
        return without + guidance_scale * (with_prompt - without)

    with torch.no_grad():
        x_t = start
        for timestep in range(999, 0, -50):
            now = torch.full((len(PROMPTS),), timestep)
            x_t = path.ddim(x_t, guided(x_t, now), now, (now - 50).clamp(min=0))
        now = torch.full((len(PROMPTS),), 999)
        blur = path.consistency(start, guided(start, now), now)
        told = embed_guidance(guidance_scale.expand(len(PROMPTS)))
        output = pipeline.unet(start, now, states, timestep_cond=told).sample
        found = path.consistency(start, output, now)
    assert (found - x_t).square().mean() < 0.5 * (blur - x_t).square().mean()


def test_a_policy_draws_what_the_pipeline_draws(pipeline: Any) -> None:
    settings = BaseSettings(
        path=str(CONSISTENCY_DIR), num_steps=2, guidance_scale=3.0, batch_size=2
    )
    policy = load_policy(settings, ComputeSettings(device="cpu", threads=1))
    images, _ = sample_images(policy, PROMPTS[:2], [5, 6])
    drawn = pipeline(
        PROMPTS[:2],
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="pt",
    ).images
    assert (images.float() - 255 * drawn).abs().max() < 1.6


def test_the_files_are_small_half_precision_and_the_base_models_own() -> None:
    files = [path for path in CONSISTENCY_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 14e6
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    for part in ("vae", "text_encoder", "tokenizer"):
        for path in (training.ROOM / "base" / part).iterdir():
            assert (CONSISTENCY_DIR / part / path.name).read_bytes() == path.read_bytes()
