"""DGPO: a preference between the good and the bad half of a prompt's images, as DPO has it between
two; no likelihood, no stochastic sampler.

Paper: Luo, Hu and Tang, "Reinforcing Diffusion Models by Direct Group Preference Optimization",
arXiv 2510.08425 (ICLR 2026), read in its released code and README.

    round      groups of images of one prompt, A = (r - mean of the group) / std of group or round
    e          ‖v_θ(x_t) - (ε - x0)‖², a mean; all images of a group share ε and the noise levels
    loss       mean over groups and levels of -1/β log σ(-s), s = β/G Σ_i A_i (e_i - e_i,ref)
               + kl_weight · mean (v_θ - v_ref)²
    clip       e_i is held where ρ_i = exp(e_i,old - e_i) has left 1 ± clip_range in A's direction
    old        d old + (1 - d) θ, see SnapshotDecay

β is `dgpo_beta`. Σ A = 0 in a group is what makes the intractable part of DPO's likelihood cancel.
The gradient is that of the released loss, the mean of σ(s)·A·e with σ(s) detached. The clip is
newer than the paper: its README thanks a reviewer for it.

Where the sources disagree or leave a choice, it is a setting:
  * `clip_range` 1e-3 and `kl_weight` 1e-3 (README, the default), 1e-2 and 0.02 (configuration
    file); without any guidance the README says 1e-5 to 1e-4.
  * `compare_with` the frozen reference, with `dgpo_beta` of 10 to 100 (default 100), or `old`, with
    2000 to 5000, which it recommends where images are drawn without guidance.
  * `advantage` over the deviation of the group (GenEval, the default) or of the round (OCR).
  * `step_fraction` 0.5: levels from the noisier half of ten steps (GenEval), or 0.7 (OCR).
  * `draw_with_old_after` 500 updates (GenEval) or 200: from then on `old` draws; null never.

Guidance is used to draw, if the base has it, and left out of the loss: the released default. A
guided reference for the KL is left out, as are fp16 and the average of θ for evaluation.

Deviations: groups whose rewards are all equal are dropped, a group's levels are its own, where
theirs are those of a whole pass, and `old` moves as a round begins, theirs after each update, of
which a round has one. On models that predict something else than a velocity, e is the error of what
they predict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.forward_process import ForwardProcessSettings, SnapshotDecay

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import AdvantageSamples
    from components.finetuning.interfaces import LossOutput, Method, MethodContext

OLD = "old"
"""Name of the snapshot."""


class DGPOSettings(ForwardProcessSettings):
    """Settings of DGPO; the defaults are the README's, drawn with guidance, trained without."""

    name: Literal["dgpo"] = "dgpo"
    learning_rate: float = Field(default=3.0e-4, gt=0.0, le=1.0)
    """Of the LoRA, which has rank 64 and alpha 128 there."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=8, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=16, ge=2)
    """Images of each of them."""
    updates_per_epoch: int = Field(default=1, ge=1)
    """Optimizer steps of a pass over the round; groups are never split."""
    advantage: Literal["group_global_std", "group_standardised"] = "group_standardised"
    """The reward's distance from its group's mean, over the deviation of the round or the group."""
    step_fraction: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of the sampler's steps, from the noisiest on, behind which none is trained on."""
    dgpo_beta: float = Field(default=100.0, gt=0.0)
    """β_dpo of the code: the larger, the sooner a group that is right stops to count."""
    compare_with: Literal["reference", "old"] = "reference"
    """Whose errors the policy's are compared with in the preference."""
    clip_range: float | None = Field(default=1.0e-3, gt=0.0, lt=1.0)
    """Band of exp(e_old - e), e a mean over dimensions; null clips nothing."""
    kl_weight: float = Field(default=1.0e-3, ge=0.0)
    """Of the distance to the reference."""
    old_decay: SnapshotDecay = SnapshotDecay(highest=0.3)
    """How the snapshot follows the adapter."""
    draw_with_old_after: int | None = Field(default=500, ge=0)
    """Updates after which the snapshot draws instead of the policy; null is never."""

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of whole groups that feed it."""
        from components.finetuning.experience.forward_process import ForwardProcess
        from components.finetuning.interfaces import Method

        after = self.draw_with_old_after
        rounds = ForwardProcess(
            self,
            context,
            {OLD: self.old_decay},
            drawn_with=lambda updates: "train" if after is None or updates <= after else OLD,
            whole_groups=True,
        )
        return Method(DGPO(self), rounds)


@dataclass(frozen=True)
class DGPO:
    """The loss of DGPO on whole groups of finished images with advantages."""

    settings: DGPOSettings

    def loss(
        self, policy: Policy, batch: AdvantageSamples, generator: torch.Generator
    ) -> LossOutput:
        """Group preference at shared noise levels; levels and noise come from `generator`."""
        import torch

        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import forward_process, policy_gradient
        from components.finetuning.losses.kl import prediction_kl
        from components.finetuning.noising import noised, predict

        settings = self.settings
        rows = noised(policy, batch, settings, generator, shared_in_groups=True)
        prediction, old = predict(policy, rows), predict(policy, rows, OLD)
        error, error_old = (
            prediction_kl(output, rows.target).view(len(batch), -1) for output in (prediction, old)
        )
        log_ratio = error_old - error
        far = torch.zeros_like(log_ratio, dtype=torch.bool)
        if settings.clip_range is not None:
            advantage = batch.advantage[:, None].expand_as(log_ratio)
            far = forward_process.gone_far(log_ratio, advantage, settings.clip_range)
        metrics = policy_gradient.ratio_figures(log_ratio)
        metrics["clip_fraction"] = far.float().mean()
        compared, kl = error_old, None
        if settings.compare_with == "reference" or settings.kl_weight > 0:
            reference = predict(policy, rows, "reference")
            kl = prediction_kl(prediction, reference).mean()
            metrics["kl"] = kl.detach()
            if settings.compare_with == "reference":
                compared = prediction_kl(reference, rows.target).view(len(batch), -1)
        found = forward_process.group_preference_loss(
            torch.where(far, error.detach(), error),
            compared,
            batch.advantage,
            batch.group,
            settings.dgpo_beta,
        )
        loss = found.loss if kl is None else found.loss + settings.kl_weight * kl
        return LossOutput(loss, {**metrics, "implicit_acc": found.implicit_acc})
