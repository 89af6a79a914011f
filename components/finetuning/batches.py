"""What a loss is computed on, whichever method collected it: b samples, latents c h w."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from components.diffusion import Conditioning


@dataclass(frozen=True)
class Transitions:
    """Single denoising steps, each with the log-probability under the policy that took it."""

    x_t: Float[Tensor, "b c h w"]
    x_prev: Float[Tensor, "b c h w"]
    """The less noisy latent as stored: its log-probability is that of these very numbers."""
    step: Int64[Tensor, " b"]
    """Position in the denoising loop, 0 the noisiest."""
    conditioning: Conditioning
    log_prob_old: Float[Tensor, " b"]
    """Mean over the latent's dimensions."""
    advantage: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class LabelledSamples:
    """Finished samples, each with its reward."""

    x0: Float[Tensor, "b c h w"]
    conditioning: Conditioning
    reward: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.reward)
