"""PRDP: a denoising trajectory's log-ratio to the pretrained model predicts reward differences.

Paper: Deng et al., "PRDP: Proximal Reward Difference Prediction for Large-Scale Reward Finetuning
of Diffusion Models", arXiv 2402.08714 (CVPR 2024). No code was released; its appendix lists the
loss.

    optimum     of E[r(x_0, c)] - τ KL(p_θ(x̄ | c) ‖ p_ref(x̄ | c)) over whole trajectories x̄:
                p* ∝ p_ref exp(r/τ), so for any two of one prompt
                log p*/p_ref(a) - log p*/p_ref(b) = (r_a - r_b)/τ: what depends on c alone cancels
    step        ℓ_t = log p_θ(x_{t-1} | x_t, c) - log p_ref(x_{t-1} | x_t, c), R̂ = Σ_t ℓ_t
    loss        max( (R̂_i - R̂_j - Δ_ij/β)², the same with every ℓ_t kept within ε of the ℓ_t that
                the trajectory was drawn with ), Δ_ij = r_i - r_j > 0: mean over pairs, then prompts
    round       draw B images of each of N prompts; K updates on all pairs

The names follow the project: `regression_beta` is the paper's β, `clip_range` its ε.

Where the sources disagree, or leave a question open, the choice is a setting:
  * step_reduction `mean` (the listing) or `sum` (the text). Default `mean`: the published β stand
    beside the listing. One is the other with β divided by the number of steps.
  * inner_epochs and updates_per_epoch: K is "gradient updates per epoch" on all pairs, 10 at small
    scale and 1 at large scale. With one optimizer step a round the policy is the one that drew, no
    ratio has moved, and clipping, which the paper finds indispensable at that very scale, could
    never act. So one of its updates may be a pass of several optimizer steps. Both readings are
    here: K passes of one step (`inner_epochs: K, updates_per_epoch: 1`, the default with the small
    scale's K = 10, where the question does not arise), or passes of several
    (`inner_epochs: 1, updates_per_epoch: 4`, for example, for the large scale).
  * clip_range: null leaves clipping out, as the paper's ablation does. The reduction over pixels is
    not stated; bands of 1e-6 and 1e-4 make sense for means over the latent, as in DDPO.

What β is in nats: log-probabilities are means over D dimensions, so the loss is zero at
p_ref exp(r/τ)/Z with τ = β / (D·T) for `mean` over T stochastic steps and β / D for `sum`. The
published β put τ so low that the optimum is never near: the residual is about -Δ/β, and PRDP is a
policy gradient with pairs for a baseline, held back by its clipping.

What the identity asks for: the pair's start noises x_T are not the same, and no update moves the
law of x_T. log p*/p_ref is r/τ plus a number of the prompt only if a trajectory's reward does not
depend on x_T, that is if the sampler forgets it: eta 1, or a flow's SDE with enough noise. Else the
loss has no zero, and its minimum is a compromise. And a step without a likelihood, such as the last
one of a sampler that lands on the picture, is in no log-ratio and in no KL, here as in DPOK:
nothing holds what shared weights do to it. tests/limits/test_toy_optimum.py shows the optimum and
both gaps.

Precision: a log-probability per dimension is a number of size 1 in fp32, which resolves 1e-7. The
small scale's band of 1e-6 is ten such steps.

Left out: full tuning of the U-Net (a LoRA is trained, and needs no second copy for the reference);
weighted sums of several rewards (any scorer may be one).

Deviations: prompts of a round are balanced over categories; groups whose rewards are all equal are
dropped and counted; a sampler's deterministic steps, if it has any, have no probability and are not
part of R̂.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.trajectory_settings import TrajectoryRoundSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import TrajectoryGroups
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class PRDPSettings(TrajectoryRoundSettings):
    """Settings of PRDP; the defaults are the paper's at small scale (its table 4)."""

    name: Literal["prdp"] = "prdp"
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    inner_epochs: int = Field(default=10, ge=1)
    """Passes over the round: the paper's K, in one reading."""
    regression_beta: float = Field(default=3.0e-5, gt=0.0)
    """β of the paper, its KL weight: reward differences are divided by it."""
    clip_range: float | None = Field(default=1.0e-6, gt=0.0)
    """ε of the paper: how far a step's log-ratio (mean over dimensions) may move in a round."""
    step_reduction: Literal["sum", "mean"] = "mean"
    """Over the denoising steps of a trajectory."""

    def requires(self) -> Requirements:
        """Steps with a density."""
        return Requirements(likelihood=True)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of whole trajectories that feed it."""
        from components.finetuning.experience.groups import TrajectoryRounds
        from components.finetuning.interfaces import Method

        return Method(PRDP(self), TrajectoryRounds(self, context))


@dataclass(frozen=True)
class PRDP:
    """The loss of PRDP on whole trajectories of whole groups."""

    settings: PRDPSettings

    def loss(
        self, policy: Policy, batch: TrajectoryGroups, generator: torch.Generator
    ) -> LossOutput:
        """The proximal regression; deterministic, `generator` is not used.

        Memory does not grow with images and steps, see two_pass.py.
        """
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import policy_gradient, reward_difference
        from components.finetuning.two_pass import score_with_reference

        settings = self.settings
        scores = score_with_reference(policy, batch)
        device = scores.log_prob.device
        reward, group = batch.reward.to(device), batch.group.to(device)
        log_prob_old = batch.log_prob_old.to(device)
        log_ratio = scores.log_prob - scores.log_prob_ref
        log_ratio_old = log_prob_old - scores.log_prob_ref
        loss = reward_difference.prdp_loss(
            log_ratio,
            log_ratio_old,
            reward,
            group,
            settings.regression_beta,
            settings.clip_range,
            settings.step_reduction,
        )
        total = reward_difference.over_steps(log_ratio.detach(), settings.step_reduction)
        metrics = {
            **policy_gradient.ratio_figures(scores.log_prob - log_prob_old),
            "kl": scores.kl.mean(),
            "implicit_acc": reward_difference.pair_accuracy(total, reward, group),
            "explained": reward_difference.explained(
                total, reward, group, settings.regression_beta
            ),
        }
        if settings.clip_range is not None:
            metrics["clip_fraction"] = reward_difference.step_clip_fraction(
                log_ratio, log_ratio_old, settings.clip_range
            )
        return LossOutput(loss, metrics)
