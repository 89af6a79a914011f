"""The denoising loss of finished samples, which stands in for -log p(x0 | prompt)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.diffusion.samplers import LevelSource
    from components.finetuning.batches import LabelledSamples


def denoising_error(
    policy: Policy, batch: LabelledSamples, levels: LevelSource, generator: torch.Generator
) -> torch.Tensor:
    """Mean squared error over dimensions of what the network says of each sample, put back to a
    random noise level, [b].

    Guidance is left out: a guided prediction is no estimate of the clean sample.

    Args:
        policy: with its adapter.
        batch: finished samples; their rewards are not looked at.
        levels: the sampler's steps, or all that the base was trained on.
        generator: a CPU generator, of levels and noise.
    """
    import torch

    from components.finetuning.losses.kl import prediction_kl

    level = policy.sampler.draw_level(len(batch), generator, levels)
    noise = torch.randn(batch.x0.shape, generator=generator).to(batch.x0.device)
    x_t, conditioning = level.add_noise(batch.x0, noise), batch.conditioning.without_guidance()
    prediction = policy.predict_at(x_t, level, conditioning)
    return prediction_kl(prediction, level.target(batch.x0, noise))
