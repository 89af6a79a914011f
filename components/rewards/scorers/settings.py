"""Which scorer a stage uses: a discriminated union, told apart by `name`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from components.contracts.settings import PluginSettings, StrictModel
from components.rewards.scorers.published_settings import PublishedScorerSettings


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


OneScorerSettings = Annotated[
    ModelScorerSettings | PythonScorerSettings | RemoteScorerSettings | PublishedScorerSettings,
    Field(discriminator="name"),
]
"""A scorer that gives one number an image; the two unions list the same."""


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


ScorerSettings = Annotated[
    ModelScorerSettings
    | PythonScorerSettings
    | RemoteScorerSettings
    | PublishedScorerSettings
    | SeveralScorerSettings,
    Field(discriminator="name"),
]


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
