"""DiffusionNFT: the policy is pulled towards good images and pushed away from bad ones, at noise
levels of the forward process; no trajectory, no likelihood, any solver, no guidance.

Paper: Zheng et al., "DiffusionNFT: Online Diffusion Reinforcement with Forward Process", arXiv
2509.16117 (ICLR 2026), read in its abstract and its released code.

    round      the policy `old` draws images x0 with reward r
    q          ½ + ½ clip(A / advantage_clip, -1, 1), A = (r - mean of the group) / std of the round
    implicit   v⁺ = β v_θ + (1 - β) v_old,  v⁻ = (1 + β) v_old - β v_θ,  x̂0± of each at x_t
    ℓ±         mean (x̂0± - x0)² / detached max(mean |x̂0± - x0|, 1e-5)
    loss       advantage_clip · mean (q ℓ⁺ + (1 - q) ℓ⁻) / β + kl_weight · mean (v_θ - v_ref)²
    old        d old + (1 - d) θ between two rounds, see SnapshotDecay

β is `mix_beta`. Where θ is old the gradient is that of the advantage-weighted denoising error,
whatever β; away from there a small β lets θ go far before either branch resists.

Where the released configurations differ, the choice is a setting; defaults are those of GenEval:
  * `mix_beta` 1, or 0.1 for OCR and several rewards.
  * `old_decay` 0.001 an update up to 0.5, or for OCR 0 for 75 updates and then 0.0075 up to 0.999.
  * `updates_per_epoch` 1, or 2 for OCR.
  * `num_steps` of the base 10, or 25 for several rewards; their solver is of second order.
  * `advantage`: over the deviation of the round, or of the group (an option of the code).

The paper is about rectified flows. Nothing here is: x̂0 is an affine function of any network output
(`NoiseLevel.predict`), so that mixing outputs is mixing x̂0, and ε- and v-prediction have the same
loss. The KL-like term compares what the base predicts.

Left out: the options that clip advantages to one sign or to ±1, the average of θ with which the
code evaluates, fp16, full fine-tuning (which the code does not have either).

Deviations: groups whose rewards are all equal are dropped (theirs have q = ½, which trains towards
`old` alone); levels of an image are drawn without replacement among the sampler's steps, `old`
moves when a round begins, which is when theirs ends; prompts of a round are balanced over
categories. The drift figures of a round are of `old`'s images, since these are what was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.forward_process import ForwardProcessSettings, SnapshotDecay
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import AdvantageSamples
    from components.finetuning.interfaces import LossOutput, Method, MethodContext

OLD = "old"
"""Name of the snapshot that draws."""


class NFTSettings(ForwardProcessSettings):
    """Settings of DiffusionNFT; the defaults are the released ones for GenEval."""

    name: Literal["nft"] = "nft"
    learning_rate: float = Field(default=3.0e-4, gt=0.0, le=1.0)
    """Of the LoRA, which has rank 32 and alpha 64 there."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=48, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    updates_per_epoch: int = Field(default=1, ge=1)
    """Optimizer steps of a pass over the round."""
    num_levels: int = Field(default=9, ge=1)
    """Noise levels of each image in each pass: 0.99 of ten sampler steps, rounded down."""
    mix_beta: float = Field(default=1.0, gt=0.0, le=1.0)
    """β of the paper."""
    kl_weight: float = Field(default=1.0e-4, ge=0.0)
    """Of the distance to the reference; at 0 the reference is not computed."""
    old_decay: SnapshotDecay = SnapshotDecay()
    """How the drawing policy follows the trained one."""

    def requires(self) -> Requirements:
        """No guidance."""
        return replace(super().requires(), guidance_free=True)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of the old policy's images that feed it."""
        from components.finetuning.experience.forward_process import ForwardProcess
        from components.finetuning.interfaces import Method

        rounds = ForwardProcess(
            self, context, {OLD: self.old_decay}, drawn_with=lambda updates: OLD
        )
        return Method(NFT(self), rounds)


@dataclass(frozen=True)
class NFT:
    """The loss of DiffusionNFT on finished images with advantages."""

    settings: NFTSettings

    def loss(
        self, policy: Policy, batch: AdvantageSamples, generator: torch.Generator
    ) -> LossOutput:
        """Both implicit policies at random noise levels; levels and noise come from `generator`."""
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses.forward_process import nft_loss, optimality_prob
        from components.finetuning.losses.kl import prediction_kl
        from components.finetuning.noising import noised, predict

        settings = self.settings
        rows = noised(policy, batch, settings, generator)
        prediction, old = predict(policy, rows), predict(policy, rows, OLD)
        good = rows.per_row(optimality_prob(batch.advantage, settings.advantage_clip))
        clean = rows.clean(prediction)
        loss = settings.advantage_clip * nft_loss(
            clean, rows.clean(old), rows.x0, good, settings.mix_beta
        )
        metrics = {
            "clean_error": prediction_kl(clean.detach(), rows.x0).mean(),
            "old_distance": prediction_kl(prediction.detach(), old).mean(),
        }
        if settings.kl_weight > 0:
            kl = prediction_kl(prediction, predict(policy, rows, "reference")).mean()
            loss = loss + settings.kl_weight * kl
            metrics["kl"] = kl.detach()
        return LossOutput(loss, metrics)
