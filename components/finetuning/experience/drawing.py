"""A round of the policy's images with everything that a method may want of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from components.contracts.progress import progress
from components.diffusion import Conditioning, Policy, Sampler, rollout
from components.diffusion.policy import Adapter
from components.finetuning.drift import drift_figures
from components.finetuning.experience.scoring import Scored, score_to_learn
from components.finetuning.interfaces import MethodContext


@dataclass(frozen=True)
class Drawn:
    """Images of some prompts, `group_size` of each, side by side. Everything is on the CPU."""

    latents: Float[Tensor, "n s1 c h w"]
    """Whole trajectories, noise first; only the clean latents (s1 = 1) where that was asked."""
    log_probs: Float[Tensor, "n s"]
    """Per dimension, NaN at deterministic steps."""
    images: UInt8[Tensor, "n 3 H W"]
    prompt: Int64[Tensor, " n"]
    """Place of each image's prompt in the pool."""
    group: Int64[Tensor, " n"]
    """0, 1, 2 ... by prompt, in the order drawn."""
    texts: Sequence[str]
    means: Float[Tensor, "n s c h w"] | None = None
    """Mean of each step under the policy that drew; None unless that was asked."""

    @property
    def x0(self) -> Float[Tensor, "n c h w"]:
        """The clean latents."""
        return self.latents[:, -1]

    def drift(self) -> dict[str, float]:
        """Brightness, saturation and diversity, for the tripwires."""
        return drift_figures(self.images, self.group)


def draw(
    context: MethodContext,
    policy: Policy,
    text: Conditioning,
    places: Sequence[int],
    group_size: int,
    generator: torch.Generator,
    *,
    adapter: Adapter = "train",
    sampler: Sampler | None = None,
    start: Float[Tensor, "n c h w"] | None = None,
    keep_trajectories: bool = True,
    keep_means: bool = False,
    description: str | None = None,
) -> Drawn:
    """Draw `group_size` images of each of the prompts at `places`.

    Args:
        context: of the method.
        policy: whose images.
        text: one row for each prompt of the pool, as `policy.encode_prompts` gives it.
        places: of prompts in the pool.
        group_size: images of each.
        generator: the seeds of the images come from it, and nothing else.
        adapter: `train`, `reference` or a snapshot.
        sampler: in place of the policy's own.
        start: latents to start from, in place of N(0, I).
        keep_trajectories: False keeps the clean latents alone.
        keep_means: True keeps the mean of each step too.
        description: of a progress line; None shows none.
    """
    prompt = torch.tensor(list(places)).repeat_interleave(group_size)
    group = torch.arange(len(places)).repeat_interleave(group_size)
    seeds = torch.randint(2**62, (len(prompt),), generator=generator).tolist()
    parts, means = [], []
    with progress(description, len(prompt)) if description else nullcontext() as bar:
        for rows in torch.arange(len(prompt)).split(context.batch_size):
            drawn = rollout(
                policy,
                text[prompt[rows]],
                [seeds[row] for row in rows.tolist()],
                adapter,
                sampler=sampler,
                start=None if start is None else start[rows],
                keep_means=keep_means,
            )
            if drawn.means is not None:
                means.append(drawn.means.cpu())
            latents = drawn.latents if keep_trajectories else drawn.latents[:, -1:]
            parts.append((latents.cpu(), drawn.log_probs.cpu(), policy.decode(drawn.x0).cpu()))
            if bar is not None:
                bar.advance(len(rows))
    latents, log_probs, images = (torch.cat(part) for part in zip(*parts, strict=True))
    texts = [context.prompts.prompts[place] for place in prompt.tolist()]
    joined = torch.cat(means) if means else None
    return Drawn(latents, log_probs, images, prompt, group, texts, joined)


def reward_of(context: MethodContext, drawn: Drawn) -> Scored:
    """The context's reward of each image, checked.

    Raises:
        QuarantinedData, GuardError: rewards that must not be trained on.
        SettingsError: several rewards, and one image of every prompt.
    """
    return score_to_learn(context.scorer, drawn.images, drawn.texts, context.batch_size)
