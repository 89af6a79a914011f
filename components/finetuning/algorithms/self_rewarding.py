"""Self-rewarding preference optimisation: draw, score, pair best with worst, DPO, and again.

No paper of exactly the name "self-rewarding online preference optimisation" for images was found.
What is built is the loop that its neighbours share: Self-Rewarding Language Models (arXiv
2401.10020), in which a model judges its own samples, learns from best against worst by DPO, and the
next round starts from the model so found; with the loss of Diffusion-DPO (arXiv 2311.12908).

    round      draw images_per_prompt images of each prompt from the policy as it is, score them,
               pair the best with the worst; a prompt whose scores are all equal has no pair
    update     -log σ(β (g(x_w) - g(x_l))), g(x) = e_anchor(x) - e_θ(x): see diffusion_dpo.py
    refresh    every refresh_every rounds the policy becomes the anchor, the reference of what
               follows: the KL to the base is then no longer held, only that to the last anchor

Judge: a language model can judge text, a diffusion model cannot judge pictures. The score is that
of `finetuning.reward`; on the pipeline's own reward model, trained on people's answers about the
base's images, it becomes less and less reliable as the policy moves. That is this loop's known
danger, self-confirmation: a held-out judge that the monitor watches (`monitor.judge`) is therefore
required, and its tripwire ends the run.

Where more than one reading is of use, the choice is a setting:
  * refresh_every: 1 is the loop of 2401.10020 with one round an iteration; a large number keeps the
    base as the reference, which is online DPO.
  * choose `best_worst` or `all` pairs of a prompt.
  * error, noise_levels, dpo_beta and calibrate: as in diffusion_dpo.py; calibrated once, at the
    start. The optimizer's defaults are Diffusion-DPO's, without its warm-up.

Left out: losers from earlier checkpoints in place of the worst sample (SPIN-Diffusion, SePPO);
negative models (Self-NPO, 2505.11777); a vision-language model that rewrites prompts and judges
(2505.16763).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.preference_settings import Calibrated, ErrorSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    from components.finetuning.interfaces import Method, MethodContext

ANCHOR = "anchor"
"""The snapshot of the policy that gains are counted from."""


class SelfRewardingSettings(Calibrated, ErrorSettings):
    """Settings of the self-rewarding loop."""

    name: Literal["self_rewarding"] = "self_rewarding"
    warmup_updates: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises linearly to its value."""
    prompts_per_round: int = Field(default=64, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    images_per_prompt: int = Field(default=4, ge=2)
    """Images of each of them; 2401.10020 draws 4 answers."""
    choose: Literal["best_worst", "all"] = "best_worst"
    """Pairs of a prompt: the best image with the worst, or every two whose rewards differ."""
    updates_per_round: int = Field(default=4, ge=1)
    """Optimizer steps on the pairs of one round."""
    pairs_per_update: int = Field(default=64, ge=1)
    """Pairs whose gradients one step accumulates, half of `base.batch_size` at a time."""
    refresh_every: int = Field(default=1, ge=1)
    """Rounds after which the policy becomes the reference."""

    def requires(self) -> Requirements:
        """A held-out judge, and what its errors need."""
        return replace(super().requires(), judge=True)

    def build(self, context: MethodContext) -> Method:
        """Diffusion-DPO's loss against the anchor, and rounds that feed it."""
        from components.finetuning.algorithms.diffusion_dpo import DiffusionDPO, margin
        from components.finetuning.experience.self_rewarding import SelfRewarded
        from components.finetuning.interfaces import Method

        return Method(
            DiffusionDPO(self, self.dpo_beta, ANCHOR), SelfRewarded(self, context, margin)
        )
