"""Who labels the images of a round, as settings. Light to import: no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from components.contracts.settings import PluginSettings, StrictModel

if TYPE_CHECKING:
    from components.contracts.protocols import Labeller
    from components.finetuning.interfaces import MethodContext


class RewardLabels(StrictModel):
    """The reward in the place of people: good is what scores high, best is what scores highest."""

    source: Literal["reward"] = "reward"
    good_above: float = 0.5
    """Good is what scores at least this."""
    unit: Literal["quantile", "score"] = "quantile"
    """Of `good_above`: a quantile of the scores of the same prompt in the request, so that people
    compare; or a score, a standard that stays where it is."""
    flip_probability: float = Field(default=0.0, ge=0.0, le=1.0)
    """How often good and bad are taken for each other."""

    @model_validator(mode="after")
    def _is_a_quantile(self) -> RewardLabels:
        if self.unit == "quantile" and not 0.0 <= self.good_above <= 1.0:
            raise ValueError("good_above must be in [0, 1] with unit quantile")
        return self


class PluggedLabels(PluginSettings):
    """One's own object with a method `label` (protocol `Labeller`), named by its dotted path."""

    source: Literal["plug"] = "plug"


LabelSettings = Annotated[RewardLabels | PluggedLabels, Field(discriminator="source")]


def build_labeller(settings: RewardLabels | PluggedLabels, context: MethodContext) -> Labeller:
    """The labeller that `settings` names.

    Raises:
        SettingsError: a dotted path cannot be imported or gives no labeller.
    """
    from components.finetuning.experience.labelling import PluggedLabeller, RewardLabeller

    if isinstance(settings, PluggedLabels):
        return PluggedLabeller.build(settings)
    return RewardLabeller(settings, context)
