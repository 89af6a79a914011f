"""Which scorer a stage uses: a discriminated union, told apart by `name`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components.contracts.settings import PluginSettings, StrictModel
from components.rewards.scorers.published_settings import PublishedScorerSettings


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


ScorerSettings = Annotated[
    ModelScorerSettings | PythonScorerSettings | PublishedScorerSettings,
    Field(discriminator="name"),
]
