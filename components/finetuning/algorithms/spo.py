"""SPO: at each denoising step, candidates from the same latent, and DPO on the best and the worst.

Paper: Liang et al., "Aesthetic Post-Training Diffusion Models from Generic Preferences with
Step-by-step Preference Optimization" (SPO), arXiv 2406.04314 (CVPR 2025), read at second hand, and
its released code.

    at step t    K candidates x_{t-1} ~ p_θ(· | x_t, c) of the same x_t; each is scored by what its
                 prediction of the clean image looks like
    pair         best and worst, where p_w - p_l > threshold for the softmax over their two scores
    go on        from a candidate drawn at random, whether it won or not
    loss         -log σ( β [log clip(ρ_w, 1 ± c) - log clip(ρ_l, 1 ± c)] ), ρ = π_θ / π_ref of the
                 step, as in d3po.py but with x_t in common; means over the latent's dimensions

β is `dpo_beta` and c is `clip_range`. The candidates differ in nothing but one step's noise, so a
pair is about that step alone, where D3PO hands a whole image's label to each of its steps.

`step_scorer` is the paper's step-aware preference model: a model of its own (PickScore's backbone,
told the timestep, trained on pairs of noisy images). None is shipped; null takes the reward on the
predicted clean image, which was never trained on such blurred ones. Scores of another scale than a
Bradley-Terry logit want a `score_scale`.

Where the sources leave a choice, it is a setting: `num_candidates` 4 for SD 1.5 (default), 2 for
SDXL; `threshold` 0.3 and 0.4.

Left out: the training of the step-aware preference model, fp16.

Deviations: images of a round may share a prompt (`group_size`), where the code takes each prompt
once; pairs of a round are shuffled over all of its images, where the code does so within a batch; a
sampler's deterministic steps have no candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.contracts.settings import PluginSettings
from components.finetuning.algorithms.optimizer import OptimizerSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    from components.finetuning.interfaces import Method, MethodContext


class SPOSettings(OptimizerSettings):
    """Settings of SPO; the defaults are the code's for SD 1.5 with 20 steps."""

    name: Literal["spo"] = "spo"
    learning_rate: float = Field(default=6.0e-5, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=10, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=1, ge=1)
    """Images of each of them."""
    num_candidates: int = Field(default=4, ge=2)
    """K, drawn from each latent."""
    start_step: int = Field(default=4, ge=0)
    """The first step with candidates; the noisier ones before it are taken as they come."""
    threshold: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Smallest difference of the two probabilities that makes a pair."""
    score_scale: float = Field(default=1.0, gt=0.0)
    """Scores are multiplied by this before the softmax."""
    step_scorer: PluginSettings | None = None
    """A step-aware preference model (protocol `StepScorer`); null takes the reward."""
    pairs_per_update: int = Field(default=10, ge=1)
    """Pairs whose gradients one optimizer step accumulates."""
    inner_epochs: int = Field(default=1, ge=1)
    """Passes over the round's pairs."""
    dpo_beta: float = Field(default=10.0, gt=0.0)
    """β of the loss."""
    clip_range: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Band of the ratio to the reference, of log-probabilities that are means over dimensions."""

    def requires(self) -> Requirements:
        """Steps with a density, and more of them than are taken before the candidates start."""
        return Requirements(likelihood=True, min_steps=self.start_step + 1)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of candidates that feed it.

        Raises:
            SettingsError: no step from `start_step` on has a density, or the plug does not fit.
        """
        from components.finetuning.algorithms.d3po import StepPreference
        from components.finetuning.experience.step_candidates import StepCandidates
        from components.finetuning.interfaces import Method

        return Method(StepPreference(self.dpo_beta, self.clip_range), StepCandidates(self, context))
