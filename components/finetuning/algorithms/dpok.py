"""DPOK: policy gradient over denoising steps with a KL to the pretrained model at each step.

Paper: Fan et al., "DPOK: Reinforcement Learning for Fine-tuning Text-to-Image Diffusion Models",
arXiv 2305.16381 (NeurIPS 2023), and its released code.

    episode    a denoising trajectory of T steps; the action at x_t is x_{t-1}, drawn from
               p_θ(x_{t-1} | x_t, c) = N(μ_θ, σ_t² I); the reward r(x_0, c) comes at the end
    gradient   E[ -α A Σ_t ∇ log p_θ(x_{t-1} | x_t, c) + β Σ_t ∇ KL(p_θ ‖ p_pre) ]
               with A = r, or A = r - V(x_t, c, t) with the critic; samples are reused through
               the ratio ρ = p_θ / p_old of each step, kept in 1 ± clip_range
    round      draw images, push their transitions to a FIFO, one step of the critic, then
               updates on transitions drawn from the FIFO

The names follow the paper: `reward_weight` is its α and `kl_weight` its β. With the gradient
clipped and AdamW only their ratio matters to first order: the released settings have 10³ for one
prompt, 10⁴ for many.

Where the sources disagree, or more than one reading is of use, the choice is a setting:
  * kl `prediction` (the code: plain mean square of guided predictions) or `exact` (the text:
    Gaussian KL); default `prediction`, since the published weights belong to it.
  * clip `clamp` (the code) or `ppo` (pessimistic, as DDPO does); default `clamp`, see
    losses/policy_gradient.py.
  * advantage `raw` (both sources) or a normalised one, for rewards on an arbitrary scale.
  * value_function, the critic: on in the code, reported apart in the text; default on, null is off.
  * transitions an update: 48 in the code, 32 in a note on the paper; default 48.

Left out: the optional "soft reward" branch (its KL path scores the tuned network twice), the KL
warm-up (its default is none), gradient checkpointing, fp16.

Deviations: prompts of a round are balanced over categories; the transitions of one update are
drawn together, so that none comes twice in it; the critic sees the mean of the text states where
the code takes CLIP's pooled feature, and its per-step gains start at one; the exact KL is divided
by the number of dimensions, as the log-probabilities are; kl `prediction` compares what the base
predicts, be it ε or v; a sampler's deterministic steps, if it
has any, have no probability and are not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.contracts.settings import StrictModel
from components.finetuning.algorithms.optimizer import OptimizerSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import Transitions
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class ValueSettings(StrictModel):
    """The critic V(x_t, c, t) and its one optimizer step a round."""

    hidden_size: int = Field(default=256, ge=1, le=8192)
    """Width of its three hidden layers."""
    learning_rate: float = Field(default=1.0e-4, gt=0.0, le=1.0)
    """Of AdamW."""
    batch_size: int = Field(default=256, ge=1)
    """Transitions of one accumulated batch."""
    num_batches: int = Field(default=5, ge=1)
    """Batches whose gradients make up the one step of a round."""


class DPOKSettings(OptimizerSettings):
    """Settings of DPOK; the defaults are the code's for one prompt."""

    name: Literal["dpok"] = "dpok"
    prompts_per_round: int = Field(default=1, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=10, ge=1)
    """Images of each of them."""
    buffer_size: int = Field(default=1000, ge=1)
    """Transitions in the FIFO; more than one round's worth makes training mildly off-policy."""
    updates_per_round: int = Field(default=5, ge=1)
    """Optimizer steps of the LoRA."""
    transitions_per_update: int = Field(default=48, ge=1)
    """Transitions whose gradients one step accumulates, `base.batch_size` of them at a time."""
    reward_weight: float = Field(default=10.0, ge=0.0)
    """α of the paper."""
    kl_weight: float = Field(default=0.01, ge=0.0)
    """β of the paper; at 0 the reference is not computed."""
    clip_range: float = Field(default=1.0e-4, gt=0.0, lt=1.0)
    """Band of the ratio of log-probabilities that are means over the latent's dimensions."""
    clip: Literal["clamp", "ppo"] = "clamp"
    """`clamp` stops outside of the band for either sign of A, `ppo` lets a step come back."""
    kl: Literal["prediction", "exact"] = "prediction"
    """Mean square of the difference of predictions, or Gaussian KL of the step per dimension."""
    advantage: Literal["raw", "batch", "group_centred", "group_standardised"] = "raw"
    """What the reward is compared with: nothing, the round, or the other images of its prompt."""
    value_function: ValueSettings | None = ValueSettings()
    """The critic; null turns it off."""

    @model_validator(mode="after")
    def _fits_together(self) -> DPOKSettings:
        if self.value_function and self.advantage != "raw":
            raise ValueError("value_function predicts the raw reward: use advantage raw, or null")
        if self.advantage.startswith("group") and self.group_size < 2:
            raise ValueError(f"advantage {self.advantage} needs a group_size of at least 2")
        return self

    def requires(self) -> Requirements:
        """Steps with a density."""
        return Requirements(likelihood=True)

    def build(self, context: MethodContext) -> Method:
        """The loss, and online rollouts that feed it."""
        from components.finetuning.experience.online import OnlineRollouts
        from components.finetuning.interfaces import Method

        return Method(DPOK(self), OnlineRollouts(self, context))


@dataclass(frozen=True)
class DPOK:
    """The loss of DPOK on single denoising steps."""

    settings: DPOKSettings

    def loss(self, policy: Policy, batch: Transitions, generator: torch.Generator) -> LossOutput:
        """`α · policy gradient + β · KL`; deterministic, `generator` is not used."""
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import policy_gradient

        settings = self.settings
        prediction = policy.predict(batch.x_t, batch.step, batch.conditioning)
        taken = policy.sampler.transition(prediction, batch.x_t, batch.step)
        log_ratio = taken.log_prob_per_dim(batch.x_prev) - batch.log_prob_old
        surrogate = {
            "clamp": policy_gradient.clamped_ratio_loss,
            "ppo": policy_gradient.ppo_loss,
        }[settings.clip]
        loss = settings.reward_weight * surrogate(log_ratio, batch.advantage, settings.clip_range)
        metrics = policy_gradient.ratio_figures(log_ratio, settings.clip_range)
        if settings.kl_weight > 0:
            kl = self._kl(policy, batch, prediction)
            loss = loss + settings.kl_weight * kl
            metrics["kl"] = kl.detach()
        return LossOutput(loss, metrics)

    def _kl(self, policy: Policy, batch: Transitions, prediction: torch.Tensor) -> torch.Tensor:
        import torch

        from components.finetuning.losses.kl import exact_kl, prediction_kl

        with torch.no_grad():
            reference = policy.predict(
                batch.x_t, batch.step, batch.conditioning, adapter="reference"
            )
        if self.settings.kl == "prediction":
            return prediction_kl(prediction, reference).mean()
        step = policy.sampler.transition(prediction, batch.x_t, batch.step)
        pretrained = policy.sampler.transition(reference, batch.x_t, batch.step)
        return exact_kl(step.mean, pretrained.mean, step.std).mean()
