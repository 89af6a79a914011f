"""Rollouts: replay, seeds, neighbours, guidance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from components.contracts.errors import GuardError, SettingsError
from components.diffusion import Policy, rollout, sample_images
from components.diffusion.conditioning import in_chunks
from tests.diffusion.conftest import train_a_little

PROMPTS = ["a cat", "two dogs", "a cat", "a red bird", "snow", "a cat on the moon"]
SEEDS = [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_replay_gives_the_very_same_log_probs(
    open_policy: Callable[..., Policy], guidance_scale: float, dtype: torch.dtype
) -> None:
    """Steps and samples in one shuffled batch, with gradients: the ratio is 1 to the bit."""
    policy = train_a_little(open_policy(guidance_scale=guidance_scale))
    conditioning = policy.encode_prompts(PROMPTS)
    found = rollout(policy, conditioning, SEEDS, dtype=dtype)
    assert found.latents.dtype == dtype
    rows = torch.arange(6).repeat_interleave(4)
    steps = torch.arange(4).repeat(6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    rows, steps = rows[order], steps[order]
    x_t, x_prev = found.latents[rows, steps], found.latents[rows, steps + 1]
    replayed = policy.transition(x_t, steps, conditioning[rows]).log_prob_per_dim(x_prev)
    assert replayed.requires_grad
    assert torch.equal((replayed - found.log_probs[rows, steps]).exp(), torch.ones(24))


def test_kl_to_the_reference_is_zero_before_the_first_update(
    open_policy: Callable[..., Policy],
) -> None:
    policy = open_policy()
    policy.add_adapter(4, 8, generator=torch.Generator())
    conditioning = policy.encode_prompts(PROMPTS[:4])
    x_t = rollout(policy, conditioning, SEEDS[:4]).latents[:, 1]
    trained = policy.transition(x_t, 1, conditioning)
    reference = policy.transition(x_t, 1, conditioning, "reference")
    assert torch.equal(trained.kl(reference), torch.zeros(4))


def test_a_sample_does_not_depend_on_its_neighbours(adapted: Policy) -> None:
    images, latents = sample_images(adapted, PROMPTS, SEEDS)
    for row in (0, 3, 5):
        alone, x0 = sample_images(adapted, [PROMPTS[row]], [SEEDS[row]])
        assert torch.equal(alone[0], images[row])
        assert torch.equal(x0[0], latents[row])
    backwards, _ = sample_images(adapted, PROMPTS[::-1], SEEDS[::-1])
    assert torch.equal(backwards.flip(0), images)


def test_images_follow_seed_and_prompt(adapted: Policy) -> None:
    images, latents = sample_images(adapted, ["a cat", "a cat", "two dogs"], [1, 2, 1])
    again, _ = sample_images(adapted, ["a cat", "a cat", "two dogs"], [1, 2, 1])
    assert torch.equal(images, again)
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 32, 32)
    assert latents.shape == (3, *adapted.latent_shape)
    assert not torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])


def test_a_trajectory_runs_from_noise_to_what_is_decoded(adapted: Policy) -> None:
    found = rollout(adapted, adapted.encode_prompts(["a cat"]), [4])
    first = torch.randn(adapted.latent_shape, generator=torch.Generator().manual_seed(4))
    assert found.latents.shape == (1, 5, *adapted.latent_shape)
    assert torch.equal(found.latents[0, 0], first)
    images, x0 = sample_images(adapted, ["a cat"], [4])
    assert torch.equal(found.x0, x0)
    assert torch.equal(adapted.decode(found.x0), images)
    assert not found.latents.requires_grad


def test_a_deterministic_rollout_has_no_log_probs(open_policy: Callable[..., Policy]) -> None:
    policy = open_policy(eta=0.0)
    conditioning = policy.encode_prompts(["a cat"])
    found = rollout(policy, conditioning, [4])
    assert bool(found.log_probs.isnan().all())
    assert bool(found.latents.isfinite().all())
    with pytest.raises(GuardError, match="std 0"):
        policy.transition(found.latents[:, 0], 0, conditioning).log_prob(found.latents[:, 1])


def test_guidance_one_is_the_conditional_branch_and_costs_nothing(
    open_policy: Callable[..., Policy],
) -> None:
    off, on = open_policy(guidance_scale=1.0), open_policy(guidance_scale=3.0)
    x_t = torch.ones(4, *off.latent_shape)
    conditional = off.encode_prompts(["a cat"] * 4)
    unconditional = off.encode_prompts([""] * 4)
    guided = on.encode_prompts(["a cat"] * 4)
    assert conditional.unconditional is None
    with torch.no_grad():
        plain, empty = off.predict(x_t, 2, conditional), off.predict(x_t, 2, unconditional)
        torch.testing.assert_close(
            on.predict(x_t, 2, guided), empty + 3.0 * (plain - empty), atol=1e-5, rtol=1e-4
        )
    assert not torch.allclose(plain, empty, atol=1e-4)


def test_prompts_are_encoded_once_and_rows_follow(adapted: Policy) -> None:
    conditioning = adapted.encode_prompts(PROMPTS)
    assert len(conditioning) == 6
    assert len(conditioning.states) == 5
    picked = conditioning[torch.tensor([5, 0, 2])]
    assert len(picked) == 3
    assert torch.equal(picked.prompt_states[1], conditioning.prompt_states[0])
    assert torch.equal(picked.prompt_states[1], picked.prompt_states[2])
    assert torch.equal(
        adapted.encode_prompts(["a cat on the moon"]).prompt_states[0], picked.prompt_states[0]
    )


def test_pixels_carry_gradients_to_the_latents(adapted: Policy) -> None:
    latents = torch.zeros(2, *adapted.latent_shape, requires_grad=True)
    pixels = adapted.pixels(latents)
    pixels.sum().backward()  # type: ignore[no-untyped-call]
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert latents.grad is not None and bool((latents.grad != 0).any())


def test_chunks_have_one_size() -> None:
    seen = []

    def double(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return 2 * rows

    rows = torch.arange(7).float()
    assert torch.equal(in_chunks(double, 3, rows), 2 * rows)
    assert seen == [3, 3, 3]


def test_what_is_refused(adapted: Policy) -> None:
    conditioning = adapted.encode_prompts(["a cat"])
    with pytest.raises(ValueError, match="2 seeds for 1 prompts"):
        rollout(adapted, conditioning, [1, 2])
    with pytest.raises(SettingsError, match="train, reference"):
        adapted.predict(torch.ones(1, *adapted.latent_shape), 0, conditioning, "old")  # type: ignore[arg-type]
