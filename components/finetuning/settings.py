"""The block `finetuning` of params.yaml. Light to import: no torch."""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from components.contracts.settings import PluginSettings, RunSettings, StrictModel
from components.finetuning.algorithms.optimizer import OptimizerSettings
from components.finetuning.requirements import check
from components.rewards.scorers.settings import ModelScorerSettings, ScorerSettings

if TYPE_CHECKING:
    from components.finetuning.interfaces import Method, MethodContext

METHODS = (
    "alignprop",
    "awm",
    "cpo",
    "crd",
    "d3po",
    "dance_grpo",
    "dco",
    "ddpo",
    "dgpo",
    "diffusion_dpo",
    "dpok",
    "draft",
    "flow_dppo",
    "flow_grpo",
    "grpo_guard",
    "hero",
    "hive",
    "kto",
    "lee2023",
    "mix_grpo",
    "nft",
    "prdp",
    "rebel",
    "refl",
    "rlcm",
    "self_rewarding",
    "sft",
    "spo",
    "supervised",
)
"""The files of `algorithms/` that hold a method of their name: a new one is one more line here."""


def _settings_class(name: str) -> type[OptimizerSettings]:
    """The class in a method's file that answers to the method's name."""
    module = import_module(f"components.finetuning.algorithms.{name}")
    (found,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, OptimizerSettings)
        and "name" in kind.model_fields
        and kind.model_fields["name"].default == name
    )
    return found


if TYPE_CHECKING:

    class MethodSettings(OptimizerSettings):
        """What every method's settings have."""

        name: str

        def build(self, context: MethodContext) -> Method:
            """The method, ready for its first round."""

else:
    MethodSettings = Annotated[
        reduce(or_, map(_settings_class, METHODS)), Field(discriminator="name")
    ]


class LoraSettings(StrictModel):
    """The low-rank adapter that is trained; everything else is frozen."""

    rank: int = Field(default=4, ge=1, le=1024)
    """Columns of A and rows of B; DPOK trains rank 4."""
    alpha: int = Field(default=4, ge=1, le=4096)
    """The adapter's output is scaled by alpha / rank."""
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Ends of module names; null takes the projections of every attention."""


class MonitorSettings(StrictModel):
    """Validation prompts, with the same noise each time: curves show what the reward hides."""

    every: int = Field(default=10, ge=1)
    """Rounds between two looks; one more is taken after the last round."""
    prompts_per_category: int = Field(default=4, ge=1)
    """Validation prompts of each category."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Images of each."""
    judge: PluginSettings | None = None
    """A held-out judge (protocol `Judge`), never the reward; null watches only reward and drift."""


class DriftSettings(StrictModel):
    """How far images may drift from the base model's before the run stops and rolls back."""

    max_brightness_shift: float = Field(default=0.15, gt=0.0, le=1.0)
    """Of the mean brightness in [0, 1], up or down."""
    max_saturation_shift: float = Field(default=0.2, gt=0.0, le=1.0)
    """Of the mean saturation in [0, 1], up or down."""
    min_diversity_ratio: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Smallest share of the base model's diversity within a prompt that must be left."""
    max_judge_drop: float = Field(default=0.1, gt=0.0, le=1.0)
    """Of the share of images that the monitor's judge calls correct."""


class Settings(StrictModel):
    """Settings of the stage."""

    lora: LoraSettings = LoraSettings()
    rounds: int = Field(ge=1, le=100_000)
    """Cycles of collecting and training."""
    method: MethodSettings
    """How to train; told apart by `name`."""
    reward: ScorerSettings = ModelScorerSettings()
    """What is to be raised."""
    monitor: MonitorSettings = MonitorSettings()
    drift: DriftSettings = DriftSettings()
    checkpoint_every: int = Field(default=1, ge=1)
    """Rounds between two checkpoints."""

    def check_with(self, run: RunSettings) -> None:
        """Refuse what cannot work with the blocks that all stages share.

        Raises:
            SettingsError: see requirements.py.
        """
        check(self, run)
