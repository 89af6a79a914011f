"""What a loss is computed on, whichever method collected it: b samples, latents c h w."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int64
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
    preference: Float[Tensor, " b"] | None = None
    """The share of a win that each `_w` has: 1 if clear, 0.5 for a tie; None is 1 for all."""
    dpo_beta: float | None = None
    """The temperature, where it was measured; None takes the settings'."""

    def __len__(self) -> int:
        return len(self.x0_w)


@dataclass(frozen=True)
class DesirableSamples:
    """Finished samples, each called good or bad on its own (SFT, DCO, KTO)."""

    x0: Float[Tensor, "b c h w"]
    conditioning: Conditioning
    desirable: Bool[Tensor, " b"]
    dpo_beta: float | None = None
    """As in `PreferencePairs`."""
    loss_scale: float | None = None
    """Factor of the loss, where it was measured; None is 1."""

    def __len__(self) -> int:
        return len(self.x0)


@dataclass(frozen=True)
class StepPairs:
    """Single denoising steps of which some were preferred to others (D3PO, SPO).

    Each latent is there once, however many pairs it is in: r latents x_t, k steps taken from them,
    p pairs of these steps.
    """

    x_t: Float[Tensor, "r c h w"]
    step: Int64[Tensor, " r"]
    """Position in the denoising loop, 0 the noisiest."""
    conditioning: Conditioning
    """One row for each x_t."""
    x_prev: Float[Tensor, "k c h w"]
    """The less noisy latents as stored."""
    origin: Int64[Tensor, " k"]
    """The row of `x_t` that each of them was drawn from."""
    winner: Int64[Tensor, " p"]
    """Of each pair, the preferred row of `x_prev`."""
    loser: Int64[Tensor, " p"]

    def __len__(self) -> int:
        return len(self.winner)


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
    pretraining: LabelledSamples | None = None
    """As many samples of the pretrained model, for methods with a term on its training data."""

    def __len__(self) -> int:
        return len(self.reward)
