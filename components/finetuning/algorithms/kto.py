"""Diffusion-KTO: good and bad images, each labelled on its own; no pairs.

Paper: Li et al., "Aligning Diffusion Models by Optimizing Human Utility", arXiv 2404.04465, with
its released code.

    error    e(x) = ‖ε - ε_θ(x_t, t, c)‖², a mean over the latent's dimensions
    gain     g(x) = e_ref(x) - e_θ(x), at the same t and ε
    loss     w_y (1 - σ(y β (g(x) - z))), y = 1 for a desirable image and -1 for an undesirable one,
             z = max(0, mean g), a constant

The utility σ is flat on both sides: an image that is already denoised much better, or much worse,
than by the reference pulls no more. Labels are made of pairs (`pairs.source: people`): winners are
desirable and losers are not, whatever they were compared with; or of rewards above and below
`reward_threshold` (`pairs.source: reward`).

Where the sources disagree, or more than one reading is of use, the choice is a setting:
  * dpo_beta: 1000 is the released code's default; another value is remembered of the paper and was
    not verified. `calibrate` as in diffusion_dpo.py.
  * desirable_share 0.8: the code's launcher; desirable_weight and undesirable_weight 1.
  * error `latent` (Diffusion-KTO) or `perceptual`, NCP's, which nobody has published.
  * reward_threshold: null takes the median of the drawn images' rewards.

Left out: the other utilities of the paper (loss-averse, risk-seeking), which it reports as worse; a
reference that follows the policy; 8-bit AdamW and half precision.

Deviations: z is the mean over all samples of an update, evaluated in parts; the code takes that of
the micro-batches of all processes, 8 samples with its launcher, which adds noise and depends on the
machine. Predictions are those without guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.preference_settings import Calibrated, PreferenceSettings

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import DesirableSamples
    from components.finetuning.denoising_errors import Errors
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class KTOSettings(Calibrated, PreferenceSettings):
    """Settings of Diffusion-KTO; the defaults are its launcher's, of at most 20,000 updates."""

    name: Literal["kto"] = "kto"
    learning_rate: float = Field(default=1.0e-7, gt=0.0, le=1.0)
    """Of the LoRA, of rank 8."""
    warmup_updates: int = Field(default=200, ge=0)
    """Updates over which the learning rate rises linearly to its value."""
    dpo_beta: float = Field(default=1000.0, gt=0.0)
    """β."""
    samples_per_update: int = Field(default=2048, ge=2)
    """Samples of one step, evaluated `base.batch_size` at a time."""
    desirable_share: float = Field(default=0.8, gt=0.0, lt=1.0)
    """Of the samples of an update."""
    desirable_weight: float = Field(default=1.0, ge=0.0)
    """w of desirable samples."""
    undesirable_weight: float = Field(default=1.0, ge=0.0)
    """w of undesirable samples."""
    reward_threshold: float | None = None
    """With pairs.source reward: above it an image is desirable; null is the median."""

    def build(self, context: MethodContext) -> Method:
        """The loss, and labelled samples that feed it."""
        from components.finetuning.experience.preferences import LabelledByPreference
        from components.finetuning.interfaces import Method

        return Method(KTO(self), LabelledByPreference(self, context, gain, whole=True))


def gain(errors: Errors) -> torch.Tensor:
    """g(x) [b]: the logit without β, up to the sign of the label and the constant z."""
    return errors.gain


@dataclass(frozen=True)
class KTO:
    """The loss of Diffusion-KTO on labelled samples."""

    settings: KTOSettings

    def loss(
        self, policy: Policy, batch: DesirableSamples, generator: torch.Generator
    ) -> LossOutput:
        """`w_y (1 - σ(y β (g - z)))`; levels and noise come from `generator`."""
        from components.finetuning.denoising_errors import errors_in_parts, noised
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import preference

        settings = self.settings
        dpo_beta = batch.dpo_beta or settings.dpo_beta
        samples = noised(
            policy, batch.x0, batch.conditioning, generator, source=settings.noise_levels
        )
        found = errors_in_parts(policy, samples, settings.error)
        loss = preference.kto_loss(
            found.gain,
            batch.desirable,
            dpo_beta,
            settings.desirable_weight,
            settings.undesirable_weight,
        )
        gains = found.gain.detach()
        return LossOutput(
            loss,
            {
                "implicit_acc": preference.implicit_accuracy(
                    preference.kto_margin(gains, batch.desirable)
                ),
                "logit_size": dpo_beta * gains.abs().mean(),
                "gain_w": _mean(gains, batch.desirable),
                "gain_l": _mean(gains, ~batch.desirable),
                "kl": found.kl.mean(),
            },
        )


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the masked values, 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp_min(1)
