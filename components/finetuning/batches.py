"""What a loss is computed on, whichever method collected it: b samples, latents c h w."""

from __future__ import annotations

from collections.abc import Sequence
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
    mean_old: Float[Tensor, "b c h w"] | None = None
    """Mean of the step under the policy that took it, for losses that compare with it."""

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class TrajectoryGroups:
    """Whole denoising trajectories, all images of some prompts: groups are never split."""

    latents: Float[Tensor, "b n1 c h w"]
    """Noise first, clean last, as stored. Step s goes from `latents[:, s]` to `latents[:, s+1]`."""
    steps: Int64[Tensor, " n"]
    """The steps with a density, in the order of the columns of `log_prob_old`."""
    conditioning: Conditioning
    log_prob_old: Float[Tensor, "b n"]
    """Mean over the latent's dimensions, under the policy that drew them."""
    reward: Float[Tensor, " b"]
    group: Int64[Tensor, " b"]
    """The prompt of each image: 0, 1, 2 ... within the batch."""

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class PreferencePairs:
    """Finished samples of which one was preferred; both are of the same prompt."""

    x0_w: Float[Tensor, "b c h w"]
    x0_l: Float[Tensor, "b c h w"]
    conditioning: Conditioning

    def __len__(self) -> int:
        return len(self.x0_w)


@dataclass(frozen=True)
class StepPairs:
    """Two single denoising steps of one prompt, of which one was preferred (D3PO, SPO)."""

    x_t_w: Float[Tensor, "b c h w"]
    x_prev_w: Float[Tensor, "b c h w"]
    x_t_l: Float[Tensor, "b c h w"]
    x_prev_l: Float[Tensor, "b c h w"]
    step: Int64[Tensor, " b"]
    conditioning: Conditioning

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class AdvantageSamples:
    """Finished samples, each with its advantage: what forward-process methods learn from."""

    x0: Float[Tensor, "b c h w"]
    conditioning: Conditioning
    advantage: Float[Tensor, " b"]
    group: Int64[Tensor, " b"]
    """The prompt of each image: 0, 1, 2 ... within the round."""

    def __len__(self) -> int:
        return len(self.advantage)


@dataclass(frozen=True)
class Prompts:
    """Prompts to draw for, with the seed of each image: methods that differentiate through
    sampling."""

    texts: Sequence[str]
    conditioning: Conditioning
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class LabelledSamples:
    """Finished samples, each with its reward."""

    x0: Float[Tensor, "b c h w"]
    conditioning: Conditioning
    reward: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.reward)
