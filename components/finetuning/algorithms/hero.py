"""HERO: policy gradient on a reward that a small encoder learns from people's labels of each round,
with start noise near that of the images they liked.

Paper: Hiranaka et al., "HERO: Human-Feedback-Efficient Reinforcement Learning for Online Diffusion
Model Finetuning", arXiv 2410.05116 (ICLR 2025). Its body could not be read; what is said here is
from its released code and project page.

    feedback     good or bad for each image of the round; one best among the good ones and the best
                 image so far, which is shown again
    encoder      f, and a head g for the loss alone; d(u, v) = (1 - cos(g f u, g f v)) / 2
                 max(0, d(best, good) - d(best, bad) + margin) on random good and bad images
    reward       r = (1 + cos(f(z), f(z_best))) / 2 of every clean latent z of the round
    policy       DDPO: z-score of r over the round in ±5, PPO's clip, 5 random steps of each image
    next round   z_T = √(1 - ε₀²)·u + ε₀·ξ, u the start noise of the best image for β of the images,
                 of a random good one for the others

β is `best_share` and ε₀ is `fresh_noise`. Encoder, head and their Adam go on from round to round,
trained on the newest round's labels only; the reward of the best image is 1 by construction.

Where the sources leave a choice, it is a setting:
  * `cosine_over`: the released distance takes the cosine over dimension 0 of its (batch, features)
    matrices, that is over the triplets, one for each feature: `batch`. `features`, the default, is
    the distance between images that the method is about: with one prompt the anchor is the same in
    all triplets, and a cosine over the batch sees nothing of it but its features' signs. On a round
    of the miniature's images the trained encoder's reward orders good before bad in 97 % of pairs
    or more with `features`, in 83 to 85 % with `batch` (two seeds, the profile's encoder).
  * `reward`: similarity to the best image (default), the mean similarity to the good ones (an
    option of the code), or the labels themselves as 0 and 1 (an ablation of the paper's).
  * whether success is measured from N(0, I) or from refined starts is not known of the paper's
    table. Here the monitor and the evaluation start from N(0, I); `good`, `diversity` and the drift
    figures of training rounds after the first are of refined starts and not comparable with them.
  * `learning_rate` 1e-3, `margin` 0.5, β and ε₀ are values of the released configuration.

HERO works on one prompt. `prompts_per_round` of 1 to n prompts are drawn once and come in every
round; best, good and bad images, start noise and triplets are those of a prompt, while encoder and
z-score are shared. The default of one prompt with 64 images is the paper's.

Beyond the paper: `replay_rounds` trains on earlier rounds as well, re-scored after each update of
the encoder as PEBBLE re-scores its buffer (experience/relabelling.py).

Left out: asking for labels of a part of the round, rounds that only warm the encoder up, fp16.

Deviations: clean latents x_0 where the code takes the last noisy ones; the encoder adapts to the
latent's shape and skips what cannot be halved; a pass is one step of Adam on as many triplets as
there are images of prompts that have any, where the code fails when no image is good or none bad:
such prompts are left out of it, and a prompt that never had a good image is not trained on at all;
the good images' start noise falls back to the best image's where only the best is good; best image,
noise and encoder are part of the checkpoint, so that a resumed run goes on exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from components.contracts.settings import StrictModel
from components.finetuning.algorithms.on_policy import OnPolicySettings
from components.finetuning.labels import LabelSettings, RewardLabels
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    from components.finetuning.interfaces import Method, MethodContext

Size = Annotated[int, Field(ge=1, le=65_536)]


class RepresentationSettings(StrictModel):
    """The encoder, its head, and how they are trained in each round."""

    encoder_size: Size = 2048
    """Numbers that the encoder makes of a latent."""
    head_sizes: tuple[Size, ...] = Field(default=(2048, 1024, 512), min_length=1)
    """Width of each layer of the head."""
    margin: float = Field(default=0.5, gt=0.0, le=1.0)
    """By how much a good image is to be nearer to the best than a bad one is, of at most 1."""
    learning_rate: float = Field(default=1.0e-5, gt=0.0, le=1.0)
    """Of Adam."""
    passes: int = Field(default=500, ge=1)
    """Steps of Adam in each round."""
    cosine_over: Literal["features", "batch"] = "features"
    """What the cosine in the loss sums over; `batch` is the released code's."""


class HEROSettings(OnPolicySettings):
    """Settings of HERO; the defaults are the released configuration's."""

    name: Literal["hero"] = "hero"
    learning_rate: float = Field(default=1.0e-3, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=1, ge=1)
    """Prompts that the run is about: drawn once, and all of them in every round."""
    group_size: int = Field(default=64, ge=2)
    """Images of each of them a round, all of which are labelled."""
    updates_per_epoch: int = Field(default=8, ge=1)
    """Optimizer steps of a pass: 8 images each at the defaults."""
    train_steps: int = Field(default=5, ge=1)
    """Denoising steps of each image that are trained on, drawn at random."""
    clip_range: float = Field(default=1.0e-4, gt=0.0, lt=1.0)
    """Band of the ratio of log-probabilities that are means over the latent's dimensions."""
    advantage: Literal["batch", "group_standardised"] = "batch"
    """What the reward is compared with: the round (the code's), or the images of its prompt."""
    labels: LabelSettings = RewardLabels()
    """Who says what is good, and which image is the best."""
    representation: RepresentationSettings = RepresentationSettings()
    """Encoder and head."""
    reward: Literal["best", "good", "labels"] = "best"
    """Similarity to the best image, to the good ones, or 1 for good and 0 for bad."""
    best_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """β: share of a prompt's images that start near the best image's noise; at 0 it is one of the
    good ones."""
    fresh_noise: float = Field(default=0.1, ge=0.0, le=1.0)
    """ε₀: 0 starts in the very same noise, 1 in N(0, I) as if there were no feedback."""
    replay_rounds: int = Field(default=0, ge=0)
    """Earlier rounds that are trained on as well, re-scored by the newest encoder; 0 is HERO."""

    @model_validator(mode="after")
    def _fits_together(self) -> HEROSettings:
        if self.replay_rounds and self.reward != "best":
            raise ValueError(
                f"replay_rounds needs a reward that can be computed anew: use reward best, or 0 "
                f"with reward {self.reward}"
            )
        return self

    def requires(self) -> Requirements:
        """Steps with a density."""
        return Requirements(likelihood=True)

    def build(self, context: MethodContext) -> Method:
        """DDPO's loss, and rounds of labelled images that feed it.

        Raises:
            SettingsError: more prompts than there are, or a labeller that does not fit.
        """
        from components.finetuning.algorithms.ddpo import PolicyGradient
        from components.finetuning.experience.feedback import FeedbackRounds
        from components.finetuning.interfaces import Method

        return Method(PolicyGradient(self.clip_range), FeedbackRounds(self, context))
