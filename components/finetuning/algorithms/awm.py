"""AWM: the policy gradient on the likelihood that a diffusion model was pretrained with.

Paper: Xue et al., "Advantage Weighted Matching", arXiv 2509.25050, read in its released code and in
a note on it.

    round      images x0 drawn with an ODE, no guidance; A = (r - mean of the group) / std of the
               round, kept in ± advantage_clip and scaled to ±1
    log p̃      -w(‖v_θ(x_t) - (ε - x0)‖²), the mean over dimensions at a noise level: the ELBO's
               term in the place of a denoising step's log-probability
    loss       mean max(-A ρ, -A clip(ρ, 1 ± clip_range)), ρ = p̃_θ / p̃_old at the same x_t
               + kl_weight · mean (v_θ - v_ref)² + ema_kl_weight · mean (v_θ - v_ema)²
    old, ema   the adapter as the round began; a snapshot that follows it, see SnapshotDecay

To first order this is A-weighted flow matching. That DDPO matches noisy targets instead, with more
variance, is the paper's argument.

Never without a trust region: bad images push away without bound, so that settings without a clip
and without the EMA's KL are refused.

Where the sources disagree or leave a choice, it is a setting; defaults are the released ones:
  * `weight` of the error: generalised_huber with power 0.25 in every released configuration;
    noise (t) and uniform are options. huber, the same with power 0.5 and another scale, and t² are
    left out.
  * `ratio` of each level (exp_first, the released one), or of an image's mean over its levels
    (sum_first), where the ratio of an image is one number and one clip.
  * `clip_range` 1, which holds only ρ ≤ 2, since there the EMA's KL is the trust region; null none.
  * `kl_weight` 0.003 (GenEval, OCR) or 1e-4 (PickScore).
  * `off_policy`: images are drawn with the EMA, which is then also `old`; off in all of them.
  * `first_step` 1 and `step_fraction` 0.9: neither the first of 14 steps nor the last two; 0 and
    0.9 for PickScore.

Left out: the KL divided by an SDE's variance, logit-normal times, fp16.

Deviations: levels of an image are drawn without replacement, not one from each of as many strata;
groups whose rewards are all equal are dropped. On models that predict something else than a
velocity, e is the error of what they predict and t the share of noise √(1 - ᾱ).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.finetuning.algorithms.forward_process import ForwardProcessSettings, SnapshotDecay
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import AdvantageSamples
    from components.finetuning.interfaces import LossOutput, Method, MethodContext
    from components.finetuning.noising import NoisedImages

OLD, EMA = "old", "ema"
"""Names of the snapshots."""


class AWMSettings(ForwardProcessSettings):
    """Settings of AWM; the defaults are the released ones for GenEval."""

    name: Literal["awm"] = "awm"
    learning_rate: float = Field(default=3.0e-4, gt=0.0, le=1.0)
    """Of the LoRA, which has rank 32 and alpha 64 there."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=72, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    updates_per_epoch: int = Field(default=1, ge=1)
    """Optimizer steps of a pass over the round."""
    num_levels: int = Field(default=6, ge=1)
    """Noise levels of each image in each pass."""
    first_step: int = Field(default=1, ge=0)
    """First step of the sampler that is trained on; 0 is the noisiest."""
    step_fraction: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of the sampler's steps, from the noisiest on, behind which none is trained on."""
    weight: Literal["uniform", "noise", "generalised_huber"] = "generalised_huber"
    """How the error at a noise level becomes a log-probability."""
    huber_power: float = Field(default=0.25, gt=0.0, le=1.0)
    """Of the generalised Huber weight."""
    ratio: Literal["per_level", "per_image"] = "per_level"
    """What has a ratio of its own, and a clip."""
    clip_range: float | None = Field(default=1.0, gt=0.0, le=1.0)
    """Band of the ratio, whose logarithm is a mean over dimensions; null clips nothing."""
    kl_weight: float = Field(default=0.003, ge=0.0)
    """Of the distance to the reference; at 0 the reference is not computed."""
    ema_kl_weight: float = Field(default=1.0, ge=0.0)
    """Of the distance to the EMA; at 0 it is not computed."""
    ema_decay: SnapshotDecay = SnapshotDecay(highest=0.3)
    """How the EMA follows the adapter."""
    off_policy: bool = False
    """Draw with the EMA and take ratios against it."""

    @model_validator(mode="after")
    def _has_a_trust_region(self) -> AWMSettings:
        if self.clip_range is None and self.ema_kl_weight == 0:
            raise ValueError(
                "clip_range null with ema_kl_weight 0 leaves nothing that holds the policy: use a "
                "clip_range, or an ema_kl_weight above 0"
            )
        return self

    def requires(self) -> Requirements:
        """No guidance."""
        return replace(super().requires(), guidance_free=True)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of images that feed it."""
        from components.finetuning.experience.forward_process import ForwardProcess
        from components.finetuning.interfaces import Method

        snapshots: dict[str, SnapshotDecay | None] = {}
        if not self.off_policy:
            snapshots[OLD] = None
        if self.off_policy or self.ema_kl_weight > 0:
            snapshots[EMA] = self.ema_decay
        adapter = EMA if self.off_policy else "train"
        rounds = ForwardProcess(self, context, snapshots, drawn_with=lambda updates: adapter)
        return Method(AWM(self), rounds)


@dataclass(frozen=True)
class AWM:
    """The loss of AWM on finished images with advantages."""

    settings: AWMSettings

    def loss(
        self, policy: Policy, batch: AdvantageSamples, generator: torch.Generator
    ) -> LossOutput:
        """PPO on the matching likelihood; levels and noise come from `generator`."""
        import math

        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import policy_gradient
        from components.finetuning.losses.kl import prediction_kl
        from components.finetuning.noising import noised, predict

        settings = self.settings
        rows = noised(policy, batch, settings, generator)
        prediction = predict(policy, rows)
        old = predict(policy, rows, EMA if settings.off_policy else OLD)
        log_ratio = self._log_prob(rows, prediction) - self._log_prob(rows, old)
        advantage = batch.advantage / settings.advantage_clip
        if settings.ratio == "per_image":
            log_ratio = log_ratio.view(-1, rows.num_levels).mean(1)
        else:
            advantage = rows.per_row(advantage)
        clip_range = math.inf if settings.clip_range is None else settings.clip_range
        loss = policy_gradient.ppo_loss(log_ratio, advantage, clip_range)
        metrics = policy_gradient.ratio_figures(log_ratio, clip_range)
        if settings.kl_weight > 0:
            kl = prediction_kl(prediction, predict(policy, rows, "reference")).mean()
            loss = loss + settings.kl_weight * kl
            metrics["kl"] = kl.detach()
        if settings.ema_kl_weight > 0:
            ema = old if settings.off_policy else predict(policy, rows, EMA)
            ema_kl = prediction_kl(prediction, ema).mean()
            loss = loss + settings.ema_kl_weight * ema_kl
            metrics["ema_kl"] = ema_kl.detach()
        return LossOutput(loss, metrics)

    def _log_prob(self, rows: NoisedImages, prediction: torch.Tensor) -> torch.Tensor:
        from components.finetuning.losses.forward_process import matching_log_prob

        settings = self.settings
        return matching_log_prob(
            prediction, rows.target, rows.level.noise, settings.weight, settings.huber_power
        )
