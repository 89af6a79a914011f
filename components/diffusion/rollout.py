"""Images drawn from a policy, with all that a method needs to score the way there again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.contracts.progress import progress
from components.diffusion.conditioning import Conditioning
from components.diffusion.policy import Adapter, Policy
from components.diffusion.samplers import Sampler


@dataclass(frozen=True)
class Trajectories:
    """What a rollout leaves behind. Step `s` goes from `latents[:, s]` to `latents[:, s + 1]`."""

    latents: Float[Tensor, "b n1 c h w"]
    """Noise first, clean last; num_steps + 1 of them."""
    log_probs: Float[Tensor, "b n"]
    """Per-dimension log-density of each stored step; NaN where a deterministic step has none."""
    means: Float[Tensor, "b n c h w"] | None = None
    """Mean of each step, unless it was not asked for."""

    @property
    def x0(self) -> Float[Tensor, "b c h w"]:
        """The clean latents."""
        return self.latents[:, -1]


@torch.no_grad()
def rollout(
    policy: Policy,
    conditioning: Conditioning,
    seeds: Sequence[int],
    adapter: Adapter = "train",
    *,
    dtype: torch.dtype = torch.float32,
    sampler: Sampler | None = None,
    start: Float[Tensor, "b c h w"] | None = None,
    keep_means: bool = False,
) -> Trajectories:
    """Denoise one sample for each row of `conditioning`.

    All noise of a sample comes from a CPU generator of its own seed, in the order in which
    diffusers' pipelines draw it: its noise depends neither on its neighbours nor on the device, and
    `pipe(prompt, generator=torch.Generator().manual_seed(seed), eta=...)` with a DDIM scheduler
    draws the same image.

    Args:
        policy: the network and its sampler.
        conditioning: one row each.
        seeds: one each, 0 to 2**63 - 1.
        adapter: whose images.
        dtype: of the stored latents. Stored first, then scored: a replay of what is stored gives
            the very same log-probs.
        sampler: takes the place of the policy's own; it must have the same noise levels.
        start: latents to start from in place of N(0, I), which is drawn all the same: the noise of
            the steps does not depend on it.
        keep_means: as much memory again.

    Raises:
        ValueError: not as many seeds as rows.
    """
    if len(seeds) != len(conditioning):
        raise ValueError(f"{len(seeds)} seeds for {len(conditioning)} prompts")
    sampler = sampler or policy.sampler
    x_t, noises = draw_noise(policy, seeds)
    x_t = (x_t if start is None else start.to(policy.device)).to(dtype)
    latents, log_probs, means = [x_t], [], []
    for step in range(sampler.num_steps):
        transition = policy.transition(x_t, step, conditioning, adapter, sampler=sampler)
        x_prev = transition.sample(noises[:, step]).to(dtype)
        if step in sampler.stochastic_steps:
            log_probs.append(transition.log_prob_per_dim(x_prev))
        else:
            log_probs.append(torch.full((len(seeds),), torch.nan, device=policy.device))
        latents.append(x_prev)
        if keep_means:
            means.append(transition.mean)
        x_t = x_prev
    kept = torch.stack(means, 1) if means else None
    return Trajectories(torch.stack(latents, 1), torch.stack(log_probs, 1), kept)


def sample_images(
    policy: Policy,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    adapter: Adapter = "train",
    description: str = "sampling",
) -> tuple[UInt8[Tensor, "n 3 H W"], Float[Tensor, "n c h w"]]:
    """Images and clean latents, both on the CPU, drawn in batches with progress."""
    images, latents = [], []
    conditioning = policy.encode_prompts(prompts)
    with progress(description, len(prompts)) as bar:
        for start in range(0, len(prompts), policy.batch_size):
            rows = slice(start, start + policy.batch_size)
            x0 = rollout(policy, conditioning[rows], seeds[rows], adapter).x0
            images.append(policy.decode(x0).cpu())
            latents.append(x0.cpu())
            bar.advance(len(x0))
    return torch.cat(images), torch.cat(latents)


def draw_noise(
    policy: Policy, seeds: Sequence[int]
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n c h w"]]:
    """The first latent and the noise of every step, of each seed."""
    draws = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        # One draw a step, as diffusers does: a single large draw would give other numbers.
        draws.append(
            torch.stack(
                [
                    torch.randn(policy.latent_shape, generator=generator)
                    for _ in range(policy.sampler.num_steps + 1)
                ]
            )
        )
    noise = torch.stack(draws).to(policy.device)
    return noise[:, 0], noise[:, 1:]
