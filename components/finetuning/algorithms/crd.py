"""CRD: the reward, as far as it differs within a prompt, is distilled into denoising errors.

Paper: Zhu et al., "Diffusion Reinforcement Learning via Centered Reward Distillation", arXiv
2603.14128, read in its abstract and in the trainer that its first author contributed to
Flow-Factory. PRDP's regression on the forward process: finished images, any solver, no likelihood.

    round      groups of images of one prompt, drawn with a snapshot `sampling` that follows the
               policy; A = (r - mean of the group) / std of the round, q = ½ + clip(A, ±c) / 2c
    r̂          -(‖v_θ(x_t) - (ε - x0)‖² - ‖v_old(x_t) - (ε - x0)‖²), means, `old` a slower snapshot:
               the implicit reward, up to what depends on the prompt alone
    loss       c/β · mean (β (r̂ - mean of the group) - (q - mean of the group))²
               + mean w ‖v_θ - v_ref‖²,  w = floor + q (kl_weight - floor)
    snapshots  d itself + (1 - d) θ as a round begins, see SnapshotDecay

The names follow the project: `regression_beta` is the trainer's crd_beta, `advantage_clip` its c.
Flow models are what the paper is about; a model that predicts something else has its own errors.

Where the sources leave a choice, it is a setting:
  * shared_noise: the trainer gives each image of a group its own ε, at a shared level. r̂ then has a
    part that is noise, linear in the change of the network as the signal is, and a regression
    shrinks what it can only measure so (with one ε for the group this part is gone as far as the
    network is linear, as in DGPO). Default true; false is the trainer.
  * normalise_errors: squared errors over their own detached mean size (the trainer's default), or
    plain ones, for which β has the meaning of the formula above.
  * adaptive_kl: w as above, or kl_weight for all. The abstract speaks of the reward; what the
    trainer hands in is q, whose mean is ½ in every round. That is done here.
  * reference_guidance_scale: the KL's reference with guidance (4.5 for Stable Diffusion 3.5), which
    the policy then learns to do without; null, the default, is without, as drawn and trained.
  * old_decay and sampling_decay: those of the trainer for OCR.

Left out: weights of a softmax over advantages and centring on good and on bad images (weight_temp),
the cross-entropy in the place of the square, rewards of several models. How many prompts a round
has and how fast it learns in the paper was not read; the defaults are its siblings'.

Deviations: groups whose rewards are all equal are dropped; predictions are without guidance; means
are over the group, the trainer's over a batch, which its sampler fills with one group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.finetuning.algorithms.forward_process import ForwardProcessSettings, SnapshotDecay
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Conditioning, Policy
    from components.finetuning.batches import AdvantageSamples
    from components.finetuning.interfaces import LossOutput, Method, MethodContext
    from components.finetuning.noising import NoisedImages

OLD, SAMPLING = "old", "sampling"
"""Names of the snapshots."""


class CRDSettings(ForwardProcessSettings):
    """Settings of CRD; the defaults are the trainer's for text rendering where it has any."""

    name: Literal["crd"] = "crd"
    learning_rate: float = Field(default=3.0e-4, gt=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    num_levels: int = Field(default=20, ge=1)
    """Noise levels of each image in each pass, all different where there are so many."""
    step_fraction: float = Field(default=0.99, gt=0.0, le=1.0)
    """Share of the sampler's steps, from the noisiest on, behind which none is trained on."""
    regression_beta: float = Field(default=1.0, gt=0.0)
    """β: implicit rewards are multiplied with it."""
    normalise_errors: bool = True
    """Whether a squared error is divided by its own mean size."""
    shared_noise: bool = True
    """Whether all images of a group see the same noise, or the same levels alone."""
    kl_weight: float = Field(default=0.1, ge=0.0)
    """Of the distance to the reference; at 0 the reference is not computed."""
    adaptive_kl: bool = True
    """Whether the worst image is held with `kl_floor` only."""
    kl_floor: float = Field(default=1.0e-4, ge=0.0)
    """Smallest weight of the distance, with `adaptive_kl`."""
    reference_guidance_scale: float | None = Field(default=None, gt=1.0)
    """Guidance of the reference in that distance; null is none."""
    old_decay: SnapshotDecay = SnapshotDecay(start=0.25, slope=0.005, highest=0.999)
    """How the snapshot that implicit rewards are counted from follows the adapter."""
    sampling_decay: SnapshotDecay = SnapshotDecay(flat_updates=75, slope=0.0075, highest=0.999)
    """How the snapshot that draws follows the adapter."""

    @model_validator(mode="after")
    def _fits_together(self) -> CRDSettings:
        if self.adaptive_kl and 0 < self.kl_weight < self.kl_floor:
            raise ValueError("kl_floor is above kl_weight: use a smaller floor, or adaptive_kl off")
        return self

    def requires(self) -> Requirements:
        """A model trained to denoise, drawn without guidance, as it is trained."""
        return Requirements(
            families=("unet", "flow"), guidance_free=True, min_steps=self.first_step + 1
        )

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of whole groups that feed it."""
        from components.finetuning.experience.forward_process import ForwardProcess
        from components.finetuning.interfaces import Method

        rounds = ForwardProcess(
            self,
            context,
            {OLD: self.old_decay, SAMPLING: self.sampling_decay},
            drawn_with=lambda updates: SAMPLING,
            whole_groups=True,
        )
        return Method(CRD(self), rounds)


@dataclass(frozen=True)
class CRD:
    """The loss of CRD on whole groups of finished images with advantages."""

    settings: CRDSettings

    def loss(
        self, policy: Policy, batch: AdvantageSamples, generator: torch.Generator
    ) -> LossOutput:
        """Centred regression at random noise levels; levels and noise come from `generator`."""
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import forward_process, reward_difference
        from components.finetuning.losses.kl import prediction_kl
        from components.finetuning.noising import noised, predict

        settings, limit = self.settings, self.settings.advantage_clip
        rows = noised(policy, batch, settings, generator, shared_in_groups=True)
        if not settings.shared_noise:
            rows = _with_own_noise(rows, generator)
        prediction, old = predict(policy, rows), predict(policy, rows, OLD)
        error_of = (
            forward_process.self_normalised_error if settings.normalise_errors else prediction_kl
        )
        implicit = error_of(old, rows.target) - error_of(prediction, rows.target)
        good = rows.per_row(forward_process.optimality_prob(batch.advantage, limit))
        group = _group_at_level(batch.group, settings.num_levels)
        beta = settings.regression_beta
        loss = reward_difference.crd_loss(implicit, good, group, beta) * limit / beta
        found = implicit.detach()
        metrics = {
            "implicit_acc": reward_difference.pair_accuracy(found, good, group),
            "explained": reward_difference.explained(found, good, group, beta),
            "old_distance": prediction_kl(prediction.detach(), old).mean(),
        }
        if settings.kl_weight > 0:
            distance = prediction_kl(prediction, self._reference(policy, rows))
            loss = loss + (self._kl_weight(good) * distance).mean()
            # A guided reference is not the policy at the start: the guards must not ask for 0.
            guided = settings.reference_guidance_scale is not None
            metrics["reference_distance" if guided else "kl"] = distance.detach().mean()
        return LossOutput(loss, metrics)

    def _kl_weight(self, good: torch.Tensor) -> torch.Tensor:
        import torch

        from components.finetuning.losses.reward_difference import adaptive_kl_weight

        settings = self.settings
        if settings.adaptive_kl:
            return adaptive_kl_weight(good, settings.kl_weight, settings.kl_floor)
        return torch.full_like(good, settings.kl_weight)

    def _reference(self, policy: Policy, rows: NoisedImages) -> torch.Tensor:
        from components.finetuning.noising import predict

        scale = self.settings.reference_guidance_scale
        if scale is not None:
            rows = replace(rows, conditioning=_guided(policy, rows.conditioning, scale))
        return predict(policy, rows, "reference")


def _group_at_level(group: torch.Tensor, num_levels: int) -> torch.Tensor:
    """A number for each group and noise level, at every row."""
    import torch

    places = group.unique(return_inverse=True)[1]
    return (places[:, None] * num_levels + torch.arange(num_levels).to(group)).flatten()


def _with_own_noise(rows: NoisedImages, generator: torch.Generator) -> NoisedImages:
    """The same images at the same levels, each with noise of its own."""
    import torch

    noise = torch.randn(rows.x0.shape, generator=generator).to(rows.x0.device)
    return replace(
        rows,
        x_t=rows.level.add_noise(rows.x0, noise),
        target=rows.level.target(rows.x0, noise),
    )


def _guided(policy: Policy, conditioning: Conditioning, scale: float) -> Conditioning:
    """The same prompts with guidance against the empty one."""
    empty = policy.encode_prompts([""])
    return replace(
        conditioning,
        unconditional=empty.states[0],
        unconditional_pooled=None if empty.pooled is None else empty.pooled[0],
        guidance_scale=scale,
    )
