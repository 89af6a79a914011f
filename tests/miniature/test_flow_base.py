"""The flow-matching base model: its conditioning, its training's shortcuts, its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from components.miniature import judge as judges
from components.miniature import training
from components.miniature.figures import draw_flow, load_flow
from components.miniature.scenes import render, sample_scene
from components.miniature.train_flow import (
    FLOW_DIR,
    NUM_ZERO_STATES,
    CountedAttention,
    noise_levels,
    sd3_states,
)
from components.miniature.world import BASE_STYLES
from tests.support.tiny_flow import tiny_flow_base

PROMPTS = ["a dog on the moon", "four wolves", ""]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusion3Pipeline:
    return load_flow()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion3Pipeline:
    return load_flow(tiny_flow_base(tmp_path_factory.mktemp("tiny")))


def _ids(pipeline: Any, prompts: list[str]) -> list[torch.Tensor]:
    return [
        tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2)
    ]


@torch.no_grad()
@pytest.mark.parametrize("num_zero_states", NUM_ZERO_STATES)
@pytest.mark.parametrize("which", ["pipeline", "tiny"])
def test_the_states_are_those_of_the_pipeline(
    request: pytest.FixtureRequest, which: str, num_zero_states: int
) -> None:
    pipeline = request.getfixturevalue(which)
    states, pooled = sd3_states(
        (pipeline.text_encoder, pipeline.text_encoder_2),
        _ids(pipeline, PROMPTS),
        width=pipeline.transformer.config.joint_attention_dim,
        num_zero_states=num_zero_states,
    )
    expected, _, expected_pooled, _ = pipeline.encode_prompt(
        PROMPTS,
        None,
        None,
        do_classifier_free_guidance=False,
        max_sequence_length=num_zero_states,
    )
    assert torch.equal(states, expected)
    assert torch.equal(pooled, expected_pooled)


@torch.no_grad()
@pytest.mark.parametrize("num_zero_states", NUM_ZERO_STATES)
def test_one_zero_state_counts_as_many(
    tiny: StableDiffusion3Pipeline, num_zero_states: int
) -> None:
    transformer = tiny.transformer
    prompts = PROMPTS[:2]
    states, _, pooled, _ = tiny.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=num_zero_states
    )
    counted, _, _, _ = tiny.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=1
    )
    given = {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
        "pooled_projections": pooled,
        "timestep": torch.tensor([300.0, 900.0]),
    }
    expected = transformer(encoder_hidden_states=states, **given).sample
    mask = torch.zeros(2, 1, 1, 16 + counted.shape[1])
    mask[..., -1] = torch.tensor(num_zero_states).log()
    usual = transformer.attn_processors
    transformer.set_attn_processor(CountedAttention())
    try:
        output = transformer(
            encoder_hidden_states=counted, joint_attention_kwargs={"attention_mask": mask}, **given
        ).sample
        other = transformer(
            encoder_hidden_states=counted,
            joint_attention_kwargs={"attention_mask": mask + torch.eye(mask.shape[-1])[-1]},
            **given,
        ).sample
    finally:
        transformer.set_attn_processor(usual)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    if num_zero_states:  # the tolerance would notice another count
        assert (other - expected).abs().max() > 1e-4


def test_noise_levels_are_spread_as_the_logit_normal_distribution() -> None:
    t = noise_levels(1000, 1.2, torch.Generator().manual_seed(3))
    assert t.shape == (1000,)
    logit = torch.logit(t.double())
    assert (logit.diff() > 0).all()  # one draw in every thousandth
    assert logit.mean().abs() < 0.01
    assert abs(logit.std().item() - 1.2) < 0.01


def test_a_folder_that_diffusers_opens(pipeline: StableDiffusion3Pipeline) -> None:
    assert pipeline.text_encoder_3 is None
    assert pipeline.tokenizer_3 is None
    assert pipeline.vae.config.shift_factor == 0.0
    size = sum(file.stat().st_size for file in FLOW_DIR.rglob("*") if file.is_file())
    assert size <= 14_000_000
    ours, base = (
        load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        for folder in (FLOW_DIR, training.ROOM / "base")
    )
    assert ours.keys() == base.keys()
    assert all(torch.equal(ours[key], base[key]) for key in ours)


@torch.no_grad()
def test_it_draws_with_the_defaults_of_diffusers(pipeline: StableDiffusion3Pipeline) -> None:
    images = pipeline(
        PROMPTS[:2],
        num_inference_steps=4,
        height=64,
        width=64,
        output_type="pt",
        generator=torch.Generator().manual_seed(1),
    ).images
    assert images.shape == (2, 3, 64, 64)
    assert torch.isfinite(images).all()
    assert images.std() > 0.1


def _renders(num: int) -> torch.Tensor:
    rng = np.random.default_rng(77)
    scenes = [sample_scene(rng) for _ in range(num)]
    images = np.stack([render(scene, rng, BASE_STYLES) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
def test_it_was_trained_on_velocities_towards_the_noise(
    pipeline: StableDiffusion3Pipeline,
) -> None:
    images = _renders(32)
    vae = pipeline.vae
    x0 = vae.encode(training.to_unit(images).contiguous()).latent_dist.mean
    x0 = x0 * vae.config.scaling_factor
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    # With a caption it says what its guided teacher said; without one, what it was trained on.
    states, _, pooled, _ = pipeline.encode_prompt(
        [""] * 32, None, None, do_classifier_free_guidance=False
    )
    for t, most in ((0.1, 0.3), (0.5, 0.3), (0.9, 0.45)):
        velocity = pipeline.transformer(
            (1 - t) * x0 + t * noise,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=torch.full((32,), 1000 * t),
        ).sample
        # Of the target's own mean square; told 1 - t for t, the errors are 0.9 and more.
        error = (velocity - (noise - x0)).square().mean() / (noise - x0).square().mean()
        assert error < most, (t, error)


@pytest.mark.parametrize("num_zero_states", [0, 256])
def test_it_draws_what_it_is_asked_for_more_often_than_not_asked_for(
    pipeline: StableDiffusion3Pipeline, num_zero_states: int
) -> None:
    prompts = ["a dog", "a cat and a dog", "three apples", "a penguin in the snow"] * 8
    images = draw_flow(
        pipeline,
        prompts,
        3,
        num_steps=10,
        guidance_scale=1.0,
        num_zero_states=num_zero_states,
    )
    correct = judges.load().correct(images, prompts).float().mean()
    others = judges.load().correct(images, prompts[1:] + prompts[:1]).float().mean()
    assert correct > 0.25
    assert others < 0.1
