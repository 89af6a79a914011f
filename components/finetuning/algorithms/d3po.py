"""D3PO: direct preference optimisation of each denoising step, on labels of finished images.

Paper: Yang et al., "Using Human Feedback to Fine-tune Diffusion Models without Any Reward Model",
arXiv 2311.13231, read at second hand, and its released code.

    data     images of one prompt, each with its trajectory, and what people say of them
    pairs    all pairs of a prompt's images that people tell apart; a step of the better image is
             preferred to the same step of the other, for every step
    loss     -log σ( h_0 β log clip(ρ_0, 1 ± c) + h_1 β log clip(ρ_1, 1 ± c) ),
             ρ_i = π_θ(x_{t-1}^i | x_t^i, c) / π_ref(...), h = ±1 by the order, 0 for a tie

β is `dpo_beta` and c is `clip_range`. There is no reward model; the reference is the pretrained
model throughout. The log-probabilities are means over the latent's dimensions, as in the code:
there log ρ is of the order of 1e-4, the loss stays near log 2 and the gradient near
-β/2 (∇ log ρ_w - ∇ log ρ_l), so that with a clipped gradient and AdamW β hardly matters.

Where the sources leave a choice, it is a setting:
  * `order`: the code's file holds a number for each image, compared within a prompt: `ranking`, the
    default, since any number orders more pairs; `binary` takes good against bad alone.
  * `clip_range`: 0.1 in the code's configuration; a revision of its script has 0.2 written into it.
  * ties have no gradient (h = 0). They are left out and not averaged in, as the code does with its
    one prompt a batch.

Left out: the paper's variants with a reward model as the judge (that is `labels: {source: reward}`)
and training of the whole U-Net.

Deviations: images are drawn anew from the policy in each round, where the paper's large experiments
label images of the pretrained model once; an update takes all pairs of `prompts_per_update` prompts
at all steps, where the code makes one for every pair: each image's step is then computed once and
not once for each of its pairs; a sampler's deterministic steps have no probability and are not
trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.finetuning.algorithms.optimizer import OptimizerSettings
from components.finetuning.labels import LabelSettings, RewardLabels
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import StepPairs
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class D3POSettings(OptimizerSettings):
    """Settings of D3PO; the defaults are the code's, but for the size of a round."""

    name: Literal["d3po"] = "d3po"
    learning_rate: float = Field(default=3.0e-5, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=10, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=7, ge=2)
    """Images of each of them: 21 pairs."""
    prompts_per_update: int = Field(default=1, ge=1)
    """Prompts whose pairs make up one optimizer step."""
    inner_epochs: int = Field(default=1, ge=1)
    """Passes over the round."""
    labels: LabelSettings = RewardLabels()
    """Who says which image is better."""
    order: Literal["ranking", "binary"] = "ranking"
    """Pairs by rank, or good against bad."""
    dpo_beta: float = Field(default=0.1, gt=0.0)
    """β of the loss."""
    clip_range: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Band of the ratio to the reference, of log-probabilities that are means over dimensions."""

    @model_validator(mode="after")
    def _flips_are_seen(self) -> D3POSettings:
        labels = self.labels
        if labels.source == "reward" and labels.flip_probability and self.order == "ranking":
            raise ValueError(
                "flip_probability takes good and bad for each other, and order ranking asks for "
                "neither: use order binary"
            )
        return self

    def requires(self) -> Requirements:
        """Steps with a density."""
        return Requirements(likelihood=True)

    def build(self, context: MethodContext) -> Method:
        """The loss, and labelled rollouts that feed it."""
        from components.finetuning.experience.ranked_rollouts import RankedRollouts
        from components.finetuning.interfaces import Method

        return Method(StepPreference(self.dpo_beta, self.clip_range), RankedRollouts(self, context))


@dataclass(frozen=True)
class StepPreference:
    """The loss of D3PO and SPO on pairs of denoising steps."""

    dpo_beta: float
    clip_range: float

    def loss(self, policy: Policy, batch: StepPairs, generator: torch.Generator) -> LossOutput:
        """DPO against the pretrained model; deterministic, `generator` is not used."""
        import torch

        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses.policy_gradient import clip_fraction
        from components.finetuning.losses.step_preference import step_preference_loss

        with torch.no_grad():
            reference = self._log_prob(policy, batch, "reference")
        log_ratio = self._log_prob(policy, batch, "train") - reference
        ratio_w, ratio_l = log_ratio[batch.winner], log_ratio[batch.loser]
        loss = step_preference_loss(ratio_w, ratio_l, self.dpo_beta, self.clip_range)
        # Every one of these is a mean over pairs, as is the loss: see `fit`.
        sides = torch.cat([ratio_w, ratio_l]).detach()
        return LossOutput(
            loss,
            {
                "implicit_acc": (ratio_w > ratio_l).float().mean(),
                "reference_log_ratio_w": ratio_w.detach().mean(),
                "reference_log_ratio_l": ratio_l.detach().mean(),
                "ratio_deviation_max": (sides.exp() - 1).abs().max(),
                "clip_fraction": clip_fraction(sides, self.clip_range),
            },
        )

    def _log_prob(self, policy: Policy, batch: StepPairs, adapter: str) -> torch.Tensor:
        """Of each of the steps taken, per dimension."""
        from components.diffusion import LatentGaussian

        taken = policy.transition(batch.x_t, batch.step, batch.conditioning, adapter)
        # A latent from which several steps were taken is predicted from once.
        of_each = LatentGaussian(taken.mean[batch.origin], taken.std[batch.origin])
        return of_each.log_prob_per_dim(batch.x_prev)
