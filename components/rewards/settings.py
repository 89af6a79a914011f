"""Settings of the stage `rewards`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.contracts.settings import PluginSettings, StrictModel


class AuditSettings(StrictModel):
    """How far the reward can be trusted before anything climbs it, and how far it must be."""

    judge: PluginSettings
    """Who looks at what the reward picks (protocol `Judge`); never the reward."""
    max_prompts: int = Field(default=100, ge=2, le=100_000)
    """Held-out prompts whose images are looked at; fewer where there are not so many."""
    edited_per_prompt: int = Field(default=2, ge=1, le=1000)
    """Images of each prompt that are edited, about 35 times each: most of the audit's time."""
    num_resamples: int = Field(default=2000, ge=100, le=100_000)
    """Resamples of the bootstrap behind each interval."""
    min_captured: float = Field(default=0.3, ge=-10.0, le=1.0)
    """Of the gain of the judge's own best-of-n, the share that the reward's choice must get: the
    lower end of its 95 % interval. 0 is chance."""
    max_shortcut: float = Field(default=0.5, gt=0.0, le=1000.0)
    """How much one edit may raise the reward beyond what the judge grants, in spreads of the reward
    among the images of one prompt."""
    max_colour_correlation: float = Field(default=0.5, gt=0.0, le=1.0)
    """How far one colour statistic may order the images of a prompt as the reward does, as a rank
    correlation, beyond the judge's own."""
    min_agreement: float = Field(default=0.2, ge=-1.0, le=1.0)
    """Kendall's tau-b of reward and judge within a prompt: the lower end of its 95 % interval."""


class LoraSettings(StrictModel):
    """Low-rank updates of the towers' linear layers (2106.09685), merged when the model is kept."""

    rank: int = Field(default=8, ge=1, le=1024)
    """Of each update."""
    alpha: int = Field(default=16, ge=1, le=65536)
    """Each update is scaled by alpha / rank."""
    targets: tuple[str, ...] = (
        *("q_proj", "k_proj", "v_proj", "out_proj"),  # CLIP
        *("query", "key", "value", "qkv", "projection"),  # BLIP
    )
    """Ends of the names of layers that get one; what a tower does not have is passed over."""


class BackboneSettings(StrictModel):
    """The pretrained model that becomes the reward model, and what of it learns."""

    architecture: Literal["two_towers", "cross_attention", "frozen_mlp"] = "two_towers"
    """CLIP's cosine (PickScore, HPSv2); a text tower that attends to the picture, with an MLP
    (ImageReward); or an MLP on CLIP's frozen embeddings (Lee et al.)."""
    source: str = Field(min_length=1)
    """Folder or hub name: a `CLIPModel` or `VisionTextDualEncoderModel`; for cross_attention a
    `BlipForImageTextRetrieval`, or `image/` and `text/` as the stage writes them."""
    trainable: Literal["all", "last_layers", "heads"] = "all"
    """What learns: every weight; the last third of each tower's layers and the head; or the head
    alone. A large backbone forgets less when less of it moves. An MLP on frozen embeddings learns
    its head whatever stands here."""
    lora: LoraSettings | None = None
    """Low-rank updates in place of the towers' own weights; the head learns beside them."""


class PromptClassificationSettings(StrictModel):
    """Lee et al.'s auxiliary loss: a good image's own prompt must win against others."""

    weight: float = Field(default=0.5, gt=0.0, le=100.0)
    """Beside the main loss."""
    temperature: float = Field(default=2.0, gt=0.0, le=1000.0)
    """Divides the scores in the softmax."""
    num_prompts: int = Field(default=4, ge=2, le=64)
    """The own prompt and others of its category. The paper perturbs each prompt by the rules of its
    templates; a category is what every prompt list has."""


class EnsembleSettings(StrictModel):
    """Preference strengths by an ensemble ("Secrets of RLHF", part II), and labels from them."""

    members: int = Field(default=10, ge=2, le=100)
    """Reward models that are trained for it; the paper's ten."""
    share: float = Field(default=0.5, gt=0.0, le=1.0)
    """Of the prompts, drawn for each member. The strength of a pair is asked only of members that
    were not trained on it, unless this is 1 as in the paper: a model that has learnt a label by
    heart does not contradict it."""
    flip_fraction: float = Field(default=0.2, ge=0.0, le=0.5)
    """Weakest of the decided pairs, flipped as far as the ensemble contradicts them."""
    soften_fraction: float = Field(default=0.2, ge=0.0, le=0.5)
    """The next weakest, which become ties."""
    smooth_fraction: float = Field(default=0.1, ge=0.0, le=0.5)
    """The strongest, which are smoothed."""
    smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """How far the strongest are moved towards a tie."""
    adaptive_margin: bool = True
    """Whether the loss asks for as much margin as the ensemble gives."""


class ObjectiveSettings(StrictModel):
    """What the reward model learns from the labels. The defaults are plain Bradley-Terry."""

    ties: Literal["half", "davidson", "leave_out"] = "half"
    """A tie is half a win each; an outcome of its own, by Davidson's model; or left out."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """How far each label is moved towards a tie, for annotators who err."""
    data_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Iterative data smoothing: after each epoch labels move by this part towards what the model
    believes; 0 is off."""
    annotators: Literal["alike", "reliability"] = "alike"
    """All judgements count the same; or how often each annotator errs is learnt (Crowd-BT)."""
    rankings: Literal["pairs", "plackett_luce"] = "pairs"
    """Rankings as the pairs that they contain, or as whole orders."""
    ratings_weight: float = Field(default=0.0, ge=0.0, le=100.0)
    """Of the loss on pictures that were rated on their own (good or bad, Likert); 0 leaves ratings
    out."""
    ratings_loss: Literal["ordinal", "squared_error"] = "ordinal"
    """Learnt thresholds between the steps of a scale; or Lee et al.'s squared error."""
    prompt_classification: PromptClassificationSettings | None = None
    """Null is off."""
    ensemble: EnsembleSettings | None = None
    """Null is off."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.ties == "davidson" and self.annotators == "reliability":
            raise ValueError(
                "ties davidson and annotators reliability exclude one another: "
                "Crowd-BT has no outcome for a tie; take ties half or leave_out"
            )
        return self


class LearningCurveSettings(StrictModel):
    """Whether more labels would help: the same training on parts of the prompts."""

    shares: tuple[float, ...] = (0.125, 0.25, 0.5)
    """Of the training prompts; all of them is the training itself. Empty leaves the curve out."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if list(self.shares) != sorted(set(self.shares)) or not all(0 < s < 1 for s in self.shares):
            raise ValueError("shares must rise, each above 0 and below 1")
        return self


class Settings(StrictModel):
    """Which backbone becomes the reward model, and how it learns from the labels."""

    backbone: BackboneSettings
    objective: ObjectiveSettings = ObjectiveSettings()
    epochs: int = Field(default=6, ge=1, le=1000)
    """Passes over the training labels; the epoch with the lowest validation loss is kept, and the
    backbone as it was where no epoch beats it."""
    patience: int = Field(default=3, ge=1, le=1000)
    """Epochs without a lower validation loss after which the training stops."""
    batch_size: int = Field(default=64, ge=1, le=65536)
    """Judgements of one update; a batch is made of whole prompts, so it can hold a few more."""
    learning_rate: float = Field(default=3.0e-4, gt=0.0, le=1.0)
    """Peak of AdamW's step size: a short warm-up, then a cosine to zero."""
    weight_decay: float = Field(default=0.01, ge=0.0, le=10.0)
    """Of matrices; biases, norms and the logit scale are left alone."""
    horizontal_flip: bool = False
    """Mirror each training image half of the time, and let the reward be the mean over a picture
    and its mirror image. Not for prompts that say left or right."""
    cache_megabytes: int = Field(default=1024, ge=0, le=10**6)
    """Memory for decoded pictures; and again as much for the states of towers that do not learn."""
    learning_curve: LearningCurveSettings = LearningCurveSettings()
    audit: AuditSettings | None = None
    """Null trusts the reward without a look."""
