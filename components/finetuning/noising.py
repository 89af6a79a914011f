"""Finished images put back to random noise levels: the rows of a forward-process loss.

row       x_t = signal·x0 + noise·ε at one of the levels, with what a network should say of it
image     `num_levels` rows side by side
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from components.diffusion import Conditioning, NoiseLevel, Policy
from components.diffusion.policy import Adapter
from components.finetuning.algorithms.forward_process import ForwardProcessSettings
from components.finetuning.batches import AdvantageSamples


@dataclass(frozen=True)
class NoisedImages:
    """r = b · num_levels noisy latents; those of one image stand side by side."""

    x_t: Float[Tensor, "r c h w"]
    level: NoiseLevel
    x0: Float[Tensor, "r c h w"]
    target: Float[Tensor, "r c h w"]
    """What a perfect network would say."""
    conditioning: Conditioning
    num_levels: int

    def per_row(self, value: Tensor) -> Tensor:
        """A value of each image [b], at each of its rows [r]."""
        return value.repeat_interleave(self.num_levels)

    def clean(self, prediction: Float[Tensor, "r c h w"]) -> Float[Tensor, "r c h w"]:
        """The clean latents that a prediction means."""
        return self.level.predict(prediction, self.x_t)[0]


def noised(
    policy: Policy,
    batch: AdvantageSamples,
    settings: ForwardProcessSettings,
    generator: torch.Generator,
    *,
    shared_in_groups: bool = False,
) -> NoisedImages:
    """Draw `num_levels` noise levels and noise for each of them, for each image.

    Guidance is left behind where the images were drawn with it: a guided prediction is no estimate
    of the clean image.

    Args:
        policy: whose sampler's noise levels.
        batch: finished images.
        settings: which levels, and how many.
        generator: a CPU generator.
        shared_in_groups: all images of a group get the same levels and the same noise, so that the
            errors of two of them differ by the images alone (DGPO).
    """
    num_levels, device = settings.num_levels, batch.x0.device
    sources = batch.group.unique(return_inverse=True)[1].cpu() if shared_in_groups else None
    count = len(batch) if sources is None else int(sources.max()) + 1
    level = _levels(policy, settings, count, generator)
    noise = torch.randn((count * num_levels, *batch.x0.shape[1:]), generator=generator).to(device)
    if sources is not None:
        places = torch.arange(num_levels)
        rows = (sources[:, None] * num_levels + places).flatten().to(device)
        level, noise = level[rows], noise[rows]
    x0 = batch.x0.repeat_interleave(num_levels, dim=0)
    images = torch.arange(len(batch), device=device).repeat_interleave(num_levels)
    return NoisedImages(
        level.add_noise(x0, noise),
        level,
        x0,
        level.target(x0, noise),
        batch.conditioning[images].without_guidance(),
        num_levels,
    )


def predict(
    policy: Policy, rows: NoisedImages, adapter: Adapter = "train"
) -> Float[Tensor, "r c h w"]:
    """What the policy says of the rows; with a graph for `train` alone.

    Rows that do not fit into one forward pass are computed again in the backward pass, one pass at
    a time, so that memory does not grow with their number.
    """
    if adapter != "train":
        with torch.no_grad():
            return policy.predict_at(rows.x_t, rows.level, rows.conditioning, adapter)
    size = policy.batch_size
    if len(rows.x_t) <= size:
        return policy.predict_at(rows.x_t, rows.level, rows.conditioning)
    parts = []
    for part in torch.arange(len(rows.x_t), device=rows.x_t.device).split(size):
        level, conditioning = rows.level[part], rows.conditioning[part]
        parts.append(
            checkpoint(
                policy.predict_at,
                rows.x_t[part],
                level,
                conditioning,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        )
    return torch.cat(parts)


def _levels(
    policy: Policy, settings: ForwardProcessSettings, count: int, generator: torch.Generator
) -> NoiseLevel:
    """`num_levels` for each of `count`, side by side."""
    num_levels, sampler = settings.num_levels, policy.sampler
    if settings.levels == "training":
        return sampler.draw_level(count * num_levels, generator, "training")
    step = random_steps(settings.steps(sampler.num_steps), count, num_levels, generator)
    return sampler.level(step.flatten().to(policy.device), count * num_levels)


def random_steps(
    steps: range, count: int, num_levels: int, generator: torch.Generator
) -> Int64[Tensor, "n k"]:
    """`num_levels` of the steps for each of `count`, uniformly; none comes twice before all came.

    Worked: of range(1, 4) with 5 levels a row holds 1, 2 and 3 in random order and then two of
    them.
    """
    passes = -(-num_levels // len(steps))
    order = torch.rand((count, passes, len(steps)), generator=generator).argsort(2)
    return order.flatten(1)[:, :num_levels] + steps.start
