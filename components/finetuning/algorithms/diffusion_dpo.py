"""Diffusion-DPO and NCP-DPO: preference pairs as a classification by how well each is denoised.

Papers: Wallace et al., "Diffusion Model Alignment Using Direct Preference Optimization", arXiv
2311.12908, with its released code; Gambashidze et al., "Aligning Diffusion Models with
Noise-Conditioned Perception" (NCP), arXiv 2406.17636, with its released code: `error: perceptual`.

    pair     x_w preferred to x_l for one prompt c; one timestep t and one noise ε for both
    error    e(x) = ‖ε - ε_θ(x_t, t, c)‖², a mean over the latent's dimensions, or NCP's distance of
             features (denoising_errors.py)
    gain     g(x) = e_ref(x) - e_θ(x), the stand-in for log π_θ(x)/π_ref(x)
    loss     -log σ(β (g(x_w) - g(x_l)))

A flow model's error is that of its velocity, ‖v_θ - (ε - x_0)‖².

Where the sources disagree, or more than one reading is of use, the choice is a setting:
  * dpo_beta: Diffusion-DPO's launchers have 5000 for both bases and a ½ before it, NCP's code 2500
    and none: the same number, 2500 here. It belongs to Stable Diffusion's latents and to one
    feature space: `calibrate` measures what a prediction that is off by 1e-3 does to the logit and
    sets β for logits of a wanted size. It is null by default, since 2500 is what was published.
  * noise_levels `training` (both papers: t uniform in 0 .. 999) or `sampler`, the few levels at
    which the policy is ever asked; default `training`. NCP's step is on the schedule of training
    with either.
  * pairs.ties `drop` (both papers) or `keep`: a tie is half a win for each side.
  * pairs.winners `all`, or `absolute`: NCP's filter of its data.

Left out: Adafactor, 8-bit AdamW and half precision; caption dropout; NCP's other losses on the same
errors (IPO, hinge, ORPO, latent and perceptual together) and other choices of features (mid block,
first up-blocks, all intermediate states, t' uniform or 0).

Deviations: a LoRA is trained where Diffusion-DPO tunes the whole network (NCP trains a LoRA);
predictions are those without guidance; where the base predicts something else than ε, latent
errors are those of what it predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from components.finetuning.algorithms.preference_settings import (
    Calibrated,
    ErrorSettings,
    PreferenceSettings,
)

if TYPE_CHECKING:
    import torch

    from components.diffusion import Adapter, Policy
    from components.finetuning.batches import PreferencePairs
    from components.finetuning.denoising_errors import Errors
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class DiffusionDPOSettings(Calibrated, PreferenceSettings):
    """Settings of Diffusion-DPO; defaults of its launchers, whose 2,000 updates are 20 rounds."""

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    pairs_per_update: int = Field(default=2048, ge=1)
    """Pairs whose gradients one step accumulates, half of `base.batch_size` at a time."""

    takes_ties: ClassVar[bool] = True

    def build(self, context: MethodContext) -> Method:
        """The loss, and stored pairs that feed it."""
        from components.finetuning.experience.preferences import StoredPairs
        from components.finetuning.interfaces import Method

        return Method(DiffusionDPO(self, self.dpo_beta), StoredPairs(self, context, margin))


def margin(errors: Errors) -> torch.Tensor:
    """g(x_w) - g(x_l) [b] of winners and losers folded into 2b rows: the logit without β."""
    winners, losers = errors.halves()
    return winners.gain - losers.gain


@dataclass(frozen=True)
class DiffusionDPO:
    """The loss of Diffusion-DPO on pairs of finished samples."""

    settings: ErrorSettings
    dpo_beta: float
    """β, unless the batch brings a calibrated one."""
    reference: Adapter = "reference"
    """What gains are counted from."""

    def loss(
        self, policy: Policy, batch: PreferencePairs, generator: torch.Generator
    ) -> LossOutput:
        """`-log σ(β · margin)` at random noise; levels and noise come from `generator`."""
        from components.finetuning.denoising_errors import errors, noised_pairs
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import preference

        dpo_beta = batch.dpo_beta or self.dpo_beta
        settings = self.settings
        noised = noised_pairs(policy, batch, generator, settings.noise_levels)
        found = errors(policy, noised, settings.error, self.reference)
        winners, losers = found.halves()
        loss = preference.dpo_loss(winners.gain, losers.gain, dpo_beta, batch.preference)
        gains = margin(found).detach()
        return LossOutput(
            loss,
            {
                "implicit_acc": preference.implicit_accuracy(gains),
                "logit": dpo_beta * gains.mean(),
                "logit_size": dpo_beta * gains.abs().mean(),
                # Both falling below zero is the known failure: the pair is told apart by denoising
                # the loser even worse than the winner.
                "gain_w": winners.gain.detach().mean(),
                "gain_l": losers.gain.detach().mean(),
                "kl": found.kl.mean(),
            },
        )
