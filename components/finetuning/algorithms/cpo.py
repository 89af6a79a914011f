"""CPO and NCP-CPO: preference pairs without a reference.

Paper: Gambashidze et al., "Aligning Diffusion Models with Noise-Conditioned Perception" (NCP),
arXiv 2406.17636, with its released code; CPO itself is from language models (arXiv 2401.08417).

    error    e(x) = ‖ε - ε_θ(x_t, t, c)‖² or, `error: perceptual`, NCP's PL: see denoising_errors.py
    loss     -log σ(-β (e(x_w) - e(x_l))) + λ e(x_w)

Without a reference nothing holds the policy near the base but the errors themselves. The paper
reports that NCP-CPO is stable where CPO on latent errors diverges: there the frozen features are
what regularises.

Where the sources disagree, or more than one reading is of use, the choice is a setting:
  * winner_weight, λ: the paper's formula has the term and gives no λ, the released code has no such
    term. Default 0, the code's, since no other value was published; with λ > 0 the loss cannot be
    lowered by denoising both images worse.
  * dpo_beta: "different" from NCP-DPO's in the paper, which does not say how. The logit is not 0 at
    the start as DPO's is: it carries the spread of errors between images. `calibrate` is therefore
    on by default, for logits of order 1; null takes `dpo_beta`.
  * noise_levels and pairs: as in diffusion_dpo.py.

Left out and deviations: as in diffusion_dpo.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from components.finetuning.algorithms.preference_settings import Calibrated, PreferenceSettings

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import PreferencePairs
    from components.finetuning.denoising_errors import Errors
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class CPOSettings(Calibrated, PreferenceSettings):
    """Settings of CPO; the optimizer is Diffusion-DPO's."""

    name: Literal["cpo"] = "cpo"
    calibrate: float | None = Field(default=1.0, gt=0.0)
    """Standard deviation that logits are to have at the start; null takes `dpo_beta`."""
    winner_weight: float = Field(default=0.0, ge=0.0)
    """λ: weight of the winner's own error, which β does not multiply: 1 counts beside a β of 10,
    not beside one of 10,000. The paper has such a term, the released code has not."""
    pairs_per_update: int = Field(default=2048, ge=1)
    """Pairs whose gradients one step accumulates, half of `base.batch_size` at a time."""

    takes_ties: ClassVar[bool] = True

    def build(self, context: MethodContext) -> Method:
        """The loss, and stored pairs that feed it."""
        from components.finetuning.experience.preferences import StoredPairs
        from components.finetuning.interfaces import Method

        return Method(CPO(self), StoredPairs(self, context, margin))


def margin(errors: Errors) -> torch.Tensor:
    """e(x_l) - e(x_w) [b] of winners and losers folded into 2b rows: the logit without β."""
    winners, losers = errors.halves()
    return losers.policy - winners.policy


@dataclass(frozen=True)
class CPO:
    """The loss of CPO on pairs of finished samples."""

    settings: CPOSettings

    def loss(
        self, policy: Policy, batch: PreferencePairs, generator: torch.Generator
    ) -> LossOutput:
        """`-log σ(-β (e_w - e_l)) + λ e_w`; levels and noise come from `generator`."""
        from components.finetuning.denoising_errors import noised_pairs, policy_error
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import preference

        settings = self.settings
        dpo_beta = batch.dpo_beta or settings.dpo_beta
        noised = noised_pairs(policy, batch, generator, settings.noise_levels)
        error_w, error_l = policy_error(policy, noised, settings.error).chunk(2)
        loss = preference.cpo_loss(
            error_w, error_l, dpo_beta, settings.winner_weight, batch.preference
        )
        gap = (error_l - error_w).detach()
        return LossOutput(
            loss,
            {
                "implicit_acc": preference.implicit_accuracy(gap),
                "logit": dpo_beta * gap.mean(),
                "logit_size": dpo_beta * gap.abs().mean(),
                "error_w": error_w.detach().mean(),
                "error_l": error_l.detach().mean(),
            },
        )
