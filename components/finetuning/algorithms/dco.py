"""DCO: a denoising loss on good images that fades once the policy is better than the reference.

Paper: Lee et al., "Direct Consistency Optimization for Compositional Text-to-Image
Personalization", arXiv 2402.12004, with its released code. Made for personalisation from three to
five pictures of a subject or a style; here the good images are those that people preferred.

    error    e(x) = ‖ε - ε_θ(x_t, t, c)‖², a mean over the latent's dimensions
    gain     g(x) = e_ref(x) - e_θ(x), at the same t and ε
    loss     -log σ(β g(x))
    gradient β σ(-β g) ∇e_θ: the ordinary denoising loss behind a gate

DPO without losers: the gate is what keeps the policy near the base.

Where the sources disagree, or more than one reading is of use, the choice is a setting:
  * average `after_sigmoid` (the paper: a gate for each sample) or `before_sigmoid` (the released
    code: errors are averaged over the batch first, one gate for all of it). Default
    `after_sigmoid`: the gate is meant to close for the samples that are learnt, and one gate closes
    for those that are not as well.
  * dpo_beta: 1000 in the code, which calls 1000 to 2000 fine; `calibrate` as in diffusion_dpo.py.
  * error `latent` (DCO) or `perceptual`, NCP's, which nobody has published.
  * samples_per_update: what was read of the sources does not tell; 4 are about one pass over the
    pictures of a subject.

Left out: learnt tokens and their learning rate of 5e-6, with a prompt for the reference that lacks
them; reward guidance in sampling, s (ε_θ - ε_ref) on top of guidance; offset noise for styles.

Deviations: predictions are those without guidance; one update is one batch, evaluated in parts, so
that `before_sigmoid` means the same whatever `base.batch_size` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from components.finetuning.algorithms.preference_settings import Calibrated, PreferenceSettings

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import DesirableSamples
    from components.finetuning.denoising_errors import Errors
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class DCOSettings(Calibrated, PreferenceSettings):
    """Settings of DCO; the defaults are its code's, whose 2,000 updates are 20 rounds."""

    name: Literal["dco"] = "dco"
    learning_rate: float = Field(default=5.0e-5, gt=0.0, le=1.0)
    """Of the LoRA, of rank 32."""
    warmup_updates: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises linearly to its value."""
    dpo_beta: float = Field(default=1000.0, gt=0.0)
    """β."""
    average: Literal["after_sigmoid", "before_sigmoid"] = "after_sigmoid"
    """A gate for each sample, or one for the mean gain of an update."""
    samples_per_update: int = Field(default=4, ge=1)
    """Samples of one step, evaluated `base.batch_size` at a time."""

    needs_losers: ClassVar[bool] = False

    def build(self, context: MethodContext) -> Method:
        """The loss, and stored winners that feed it."""
        from components.finetuning.experience.preferences import StoredSamples
        from components.finetuning.interfaces import Method

        return Method(DCO(self), StoredSamples(self, context, gain, whole=True))


def gain(errors: Errors) -> torch.Tensor:
    """g(x) [b]: the logit without β."""
    return errors.gain


@dataclass(frozen=True)
class DCO:
    """The loss of DCO on finished samples."""

    settings: DCOSettings

    def loss(
        self, policy: Policy, batch: DesirableSamples, generator: torch.Generator
    ) -> LossOutput:
        """`-log σ(β g)`; levels and noise come from `generator`."""
        from components.finetuning.denoising_errors import errors_in_parts, noised
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import preference

        settings = self.settings
        dpo_beta = batch.dpo_beta or settings.dpo_beta
        samples = noised(
            policy, batch.x0, batch.conditioning, generator, source=settings.noise_levels
        )
        found = errors_in_parts(policy, samples, settings.error)
        gains = found.gain.detach()
        return LossOutput(
            preference.dco_loss(found.gain, dpo_beta, settings.average),
            {
                "logit": dpo_beta * gains.mean(),
                "gate": (-dpo_beta * gains).sigmoid().mean(),
                "gain_w": gains.mean(),
                "kl": found.kl.mean(),
            },
        )
