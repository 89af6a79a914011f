"""Which scorer a stage uses: a discriminated union, told apart by `name`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from components.contracts.settings import PluginSettings, StrictModel


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


class PythonScorerSettings(PluginSettings):
    """One's own function of images and prompts, or object with a method `score`, named by its
    dotted path: see python.py."""

    name: Literal["python"] = "python"
    differentiable: bool = False
    """Whether gradients flow through it: it then gets floats in [0, 1] in place of bytes."""


OneScorerSettings = Annotated[
    ModelScorerSettings | PythonScorerSettings,
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
    ModelScorerSettings | PythonScorerSettings | SeveralScorerSettings,
    Field(discriminator="name"),
]


def trained_models(settings: ScorerSettings) -> list[str]:
    """Folders of the project's own reward models that a scorer reads."""
    parts = (
        [part.scorer for part in settings.scorers]
        if isinstance(settings, SeveralScorerSettings)
        else [settings]
    )
    return [part.path for part in parts if isinstance(part, ModelScorerSettings)]
