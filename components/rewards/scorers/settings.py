"""Which scorer a stage uses: a discriminated union, told apart by `name`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.contracts.settings import PluginSettings, StrictModel


class ModelScorerSettings(StrictModel):
    """The reward model that the stage `rewards` trained."""

    name: Literal["model"] = "model"
    path: str = Field(default="models/reward", min_length=1)
    """Folder of the reward model, relative to the project's folder."""


class PythonScorerSettings(PluginSettings):
    """One's own object with a method `score` (protocol `Scorer`), named by its dotted path."""

    name: Literal["python"] = "python"
    differentiable: bool = False
    """Whether the object also has `score_pixels`, through which gradients flow."""


ScorerSettings = Annotated[
    ModelScorerSettings | PythonScorerSettings,
    Field(discriminator="name"),
]
