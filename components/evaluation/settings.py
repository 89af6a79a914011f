"""The `evaluation` block of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.contracts.settings import PluginSettings, StrictModel
from components.rewards.scorers.settings import ModelScorerSettings, ScorerSettings

Phrase = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


class PhraseSlot(StrictModel):
    """A place in the prompt that a phrase can stand in, or none."""

    place: Literal["before", "behind"]
    """Of the prompt."""
    phrases: tuple[Phrase, ...] = Field(min_length=1, max_length=64)
    """What can stand there; one that begins with a comma joins the prompt without a space."""

    def __len__(self) -> int:
        return len(self.phrases)


class PromptSearchSettings(StrictModel):
    """A search for words around every prompt, by the reward and on training prompts."""

    slots: tuple[PhraseSlot, ...] = Field(min_length=1, max_length=8)
    """Of the encoding; it has as many states as there are ways to fill them."""
    episodes: int = Field(16, ge=1, le=10_000)
    """Walks from the bare prompt."""
    edits: int | None = Field(None, ge=1, le=64)
    """Edits of an episode; null is one for each slot."""
    exploration: float = Field(0.3, ge=0.0, le=1.0)
    """ε: share of the edits that are drawn at random."""
    learning_rate: float = Field(0.5, gt=0.0, le=1.0)
    """α of the update."""
    discount: float = Field(0.9, ge=0.0, lt=1.0)
    """γ of the update."""
    prompts_per_category: int = Field(4, ge=1, le=1000)
    """Training prompts of each category that an encoding is tried on."""
    samples_per_prompt: int = Field(2, ge=1, le=64)
    """Images of each."""


class BaselineSettings(StrictModel):
    """What is tried without training."""

    best_of: tuple[Annotated[int, Field(ge=2, le=1024)], ...] = ()
    """Best of n images by the reward, beside n = samples_per_prompt, which costs nothing; the
    largest decides how many images of each prompt the base draws."""
    prompt_search: PromptSearchSettings | None = None
    """Words around the prompt; null searches none."""


class Settings(StrictModel):
    """How the LoRA is measured against the base."""

    samples_per_prompt: int = Field(4, ge=2, le=64)
    """Images of each prompt and model; two are the least that have a diversity."""
    prompts_per_category: int = Field(60, ge=1, le=100_000)
    """Test prompts of each category, drawn by the seed; a smaller category gives all it has."""
    judge: PluginSettings
    """Callable that returns a `Judge`. Never the reward, else the figures prove nothing."""
    reward: ScorerSettings = ModelScorerSettings()
    """The scorer that finetuning climbed, measured again: do reward and judge part ways?"""
    num_resamples: int = Field(10_000, ge=100, le=1_000_000)
    """Bootstrap resamples behind every 95 % interval."""
    grid_prompts_per_category: int = Field(2, ge=1, le=8)
    """Prompts of each category in the before/after grid: the first drawn, whatever they show."""
    baselines: BaselineSettings | None = BaselineSettings()
    """What the LoRA is compared with that needs no training; null is nothing."""
