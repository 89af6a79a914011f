"""Which scorer a stage uses: a discriminated union, told apart by `name`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from components.contracts.settings import PluginSettings, StrictModel
from components.rewards.scorers.published_settings import (
    NetworkScorerSettings,
    PublishedScorerSettings,
)


class HttpSettings(StrictModel):
    """How patiently a service is asked: a run waits for it, and fails when it stays away."""

    timeout_s: float = Field(default=60.0, gt=0.0, le=3600.0)
    """Seconds without a byte from the service after which one try counts as failed."""
    retries: int = Field(default=6, ge=0, le=100)
    """Further tries after the first; with the default pauses the run waits about a minute."""
    first_pause_s: float = Field(default=1.0, ge=0.0, le=3600.0)
    """Seconds before the second try; each further pause is twice as long."""
    longest_pause_s: float = Field(default=30.0, ge=0.0, le=3600.0)
    """Seconds that no pause exceeds, whatever the service asks for."""


class ModelScorerSettings(StrictModel):
    """The reward model that the stage `rewards` trained."""

    name: Literal["model"] = "model"
    differentiable: ClassVar[bool] = True
    path: str = Field(default="models/reward", min_length=1)
    """Folder of the reward model, relative to the project's folder."""


class RemoteScorerSettings(StrictModel):
    """A reward service (`konomi serve-reward`) that is asked over HTTP."""

    name: Literal["remote"] = "remote"
    differentiable: ClassVar[bool] = False
    url: str = Field(pattern=r"^https?://[^@?#\s]+$")
    """Where it listens, such as http://127.0.0.1:8900; without credentials."""
    batch_size: int = Field(default=32, ge=1, le=256)
    """Images of one request."""
    timeout_s: float = Field(default=60.0, gt=0.0, le=3600.0)
    """Seconds without a byte after which a request counts as failed; scoring a batch takes them."""
    patience_s: float = Field(default=300.0, ge=0.0, le=86_400.0)
    """Seconds that a run waits for a service that is away, before it fails with status 75."""
    retries: int = Field(default=5, ge=0, le=100)
    """How often one batch is sent again to a service that is up and does not score it."""
    token_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the bearer token; none is sent where this is null."""
    version: str | None = None
    """What the service must say of itself in GET /health; null takes whatever it says first, and
    holds it to that."""
    TRANSPORT: ClassVar[frozenset[str]] = frozenset(
        {"url", "batch_size", "timeout_s", "patience_s", "retries", "token_env"}
    )
    """What decides how scores come here, and nothing of what they are."""


class PythonScorerSettings(PluginSettings):
    """One's own function of images and prompts, or object with a method `score`, named by its
    dotted path: see python.py."""

    name: Literal["python"] = "python"
    differentiable: bool = False
    """Whether gradients flow through it: it then gets floats in [0, 1] in place of bytes."""


class ColourScorerSettings(StrictModel):
    """A statistic of the pixels alone, such as a shortcut that an audit should find."""

    name: Literal["colour"] = "colour"
    differentiable: ClassVar[bool] = True
    statistic: Literal["brightness", "saturation", "contrast", "sharpness", "colourfulness"] = (
        "colourfulness"
    )
    """What is measured: see components/contracts/image_statistics.py."""
    prefer: Literal["high", "low"] = "high"
    """Which end of the scale is better."""


class JpegScorerSettings(StrictModel):
    """How small, or how large, a picture is as JPEG: DDPO's two rewards of pixels alone."""

    name: Literal["jpeg"] = "jpeg"
    differentiable: ClassVar[bool] = False
    prefer: Literal["small", "large"] = "small"
    """`small` is DDPO's compressibility, `large` its incompressibility."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of the encoder; DDPO takes 95."""


class OcrScorerSettings(StrictModel):
    """Whether a picture shows the text that stands in quotes in its prompt; needs the extra
    `ocr`."""

    name: Literal["ocr"] = "ocr"
    differentiable: ClassVar[bool] = False
    min_confidence: float = Field(default=0.5, ge=0.0, le=1.0)
    """Lines of which the reader is less sure are taken as not there."""


class OpenNsfwScorerSettings(StrictModel):
    """One minus the probability that a picture is not safe, by Yahoo's open_nsfw; needs the extra
    `nsfw`, which brings the weights."""

    name: Literal["open_nsfw"] = "open_nsfw"
    differentiable: ClassVar[bool] = False


class NsfwScorerSettings(NetworkScorerSettings):
    """One minus the probability that a picture is not safe, by an image classifier."""

    name: Literal["nsfw"] = "nsfw"
    model: str = Field(default="Falconsai/nsfw_image_detection", min_length=1)
    """An image classifier of transformers with its image processor."""
    unsafe_labels: tuple[str, ...] = Field(default=("nsfw",), min_length=1)
    """The labels of pictures that are not safe, without regard to case."""


class GenevalScorerSettings(NetworkScorerSettings):
    """GenEval's check of objects, counts, colours and positions; the defaults are its own."""

    name: Literal["geneval"] = "geneval"
    differentiable: ClassVar[bool] = False
    batch_size: int = Field(default=4, ge=1, le=4096)
    """Images of one pass of the detector; the last pass is filled up to it."""
    tasks: str = Field(min_length=1)
    """File with what each prompt asks for, in the layout of GenEval's evaluation_metadata.jsonl,
    relative to the project's folder."""
    detector: str = Field(default="facebook/mask2former-swin-small-coco-instance", min_length=1)
    """A detector of transformers: Mask2Former, MaskFormer, DETR, RT-DETR, YOLOS, OWLv2."""
    clip: str = Field(default="openai/clip-vit-large-patch14", min_length=1)
    """The `CLIPModel` that names colours; not needed where no task asks for one."""
    score: Literal["strict", "soft"] = "strict"
    """`strict` is GenEval's 0 or 1, `soft` the share of what is right, as Flow-GRPO rewards it."""
    threshold: float = Field(default=0.3, ge=0.0, lt=1.0)
    """The detector must be surer of an object than this."""
    counting_threshold: float = Field(default=0.9, ge=0.0, lt=1.0)
    """As `threshold`, in tasks with the tag `counting`."""
    max_objects: int = Field(default=16, ge=1, le=1000)
    """Most objects of one class that are looked at."""
    max_overlap: float = Field(default=1.0, gt=0.0, le=1.0)
    """Intersection over union from which the less sure of two objects of a class is a double; 1 is
    off."""
    position_margin: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of their sizes by which objects must be apart to be beside each other."""


class VlmScorerSettings(StrictModel):
    """A vision-language model behind an OpenAI-compatible endpoint, asked for a number."""

    name: Literal["vlm"] = "vlm"
    differentiable: ClassVar[bool] = False
    url: str = Field(pattern=r"^https?://[^@?#\s]+$")
    """What `/chat/completions` follows, such as http://127.0.0.1:8000/v1; without credentials."""
    model: str = Field(min_length=1)
    """The name by which the service knows the model."""
    api_key_variable: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the key; none is sent where this is null."""
    question: str = Field(
        default=(
            "The picture was drawn for this text: {prompt}\nHow well does it show what the text "
            "says, and how good does it look? Answer with one number from 1 (not at all) to 5 "
            "(perfectly) and nothing else."
        ),
        min_length=1,
    )
    """What is asked of each picture; {prompt} stands for its prompt."""
    lowest: int = Field(default=1, ge=-1000, le=1000)
    """The worst answer, which scores 0."""
    highest: int = Field(default=5, ge=-1000, le=1000)
    """The best answer, which scores 1."""
    answer_pattern: str = r"^\s*(?:score\s*:?\s*)?(-?\d+(?:\.\d+)?)\s*(?:/\s*\d+)?\s*\.?\s*$"
    """Regular expression, without regard to case, whose one group is the number in the answer; as
    it stands the answer must be nothing but a number."""
    answer_tries: int = Field(default=3, ge=1, le=20)
    """How often the model is asked when its answer holds no number, before the run fails."""
    expected_score: bool = False
    """Whether the score is the mean over the model's tokens in place of the number that it wrote;
    for answers of one digit, from a service that gives top_logprobs."""
    max_tokens: int = Field(default=16, ge=1, le=100_000)
    """Longest answer."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request; null takes one of ours away."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Pictures that are asked about at the same time."""
    http: HttpSettings = HttpSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest {self.lowest} is not below highest {self.highest}")
        if self.expected_score and not 0 <= self.lowest < self.highest <= 9:
            raise ValueError("expected_score needs answers of one digit: lowest and highest 0 to 9")
        try:
            groups = re.compile(self.answer_pattern).groups
        except re.error as error:
            raise ValueError(f"answer_pattern is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"answer_pattern has {groups} groups, not one around the number")
        return self


OneScorer = (
    ModelScorerSettings
    | PythonScorerSettings
    | RemoteScorerSettings
    | PublishedScorerSettings
    | ColourScorerSettings
    | JpegScorerSettings
    | OcrScorerSettings
    | GenevalScorerSettings
    | NsfwScorerSettings
    | OpenNsfwScorerSettings
    | VlmScorerSettings
)
OneScorerSettings = Annotated[OneScorer, Field(discriminator="name")]
"""A scorer that gives one number an image."""


class PartSettings(StrictModel):
    """One of several rewards."""

    weight: float = 1.0
    """Of the normalised part in the sum; negative where less of it is better, never 0."""
    label: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Names the part in curves and messages; null takes the scorer's name."""
    scorer: OneScorerSettings

    @model_validator(mode="after")
    def _counts(self) -> PartSettings:
        if self.weight == 0:
            raise ValueError("a weight of 0 scores for nothing: leave the part out")
        return self


class SeveralScorerSettings(StrictModel):
    """Several rewards, each normalised among the images of a prompt before the weights apply."""

    name: Literal["several"] = "several"
    scorers: tuple[PartSettings, ...] = Field(min_length=1)
    """The parts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each part."""
        return tuple(part.label or part.scorer.name for part in self.scorers)

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through every part."""
        return all(part.scorer.differentiable for part in self.scorers)

    @model_validator(mode="after")
    def _are_told_apart(self) -> SeveralScorerSettings:
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ValueError(f"two parts are called {twice[0]}: give each a label of its own")
        return self


ScorerSettings = Annotated[OneScorer | SeveralScorerSettings, Field(discriminator="name")]


def deciding(settings: ScorerSettings) -> dict[str, Any]:
    """The settings that decide scores: a run goes on with its service at another address."""
    if isinstance(settings, SeveralScorerSettings):
        parts = [
            part.model_dump(mode="json") | {"scorer": deciding(part.scorer)}
            for part in settings.scorers
        ]
        return settings.model_dump(mode="json") | {"scorers": parts}
    left_out = set(settings.TRANSPORT) if isinstance(settings, RemoteScorerSettings) else None
    return settings.model_dump(mode="json", exclude=left_out)


def trained_models(settings: ScorerSettings) -> list[str]:
    """Folders of the project's own reward models that a scorer reads."""
    parts = (
        [part.scorer for part in settings.scorers]
        if isinstance(settings, SeveralScorerSettings)
        else [settings]
    )
    return [part.path for part in parts if isinstance(part, ModelScorerSettings)]
