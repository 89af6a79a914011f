"""The block `finetuning` of params.yaml. Light to import: no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.contracts.settings import PluginSettings, RunSettings, StrictModel
from components.finetuning.algorithms.alignprop import AlignPropSettings
from components.finetuning.algorithms.awm import AWMSettings
from components.finetuning.algorithms.cpo import CPOSettings
from components.finetuning.algorithms.crd import CRDSettings
from components.finetuning.algorithms.d3po import D3POSettings
from components.finetuning.algorithms.dance_grpo import DanceGRPOSettings
from components.finetuning.algorithms.dco import DCOSettings
from components.finetuning.algorithms.ddpo import DDPOSettings
from components.finetuning.algorithms.dgpo import DGPOSettings
from components.finetuning.algorithms.diffusion_dpo import DiffusionDPOSettings
from components.finetuning.algorithms.dpok import DPOKSettings
from components.finetuning.algorithms.draft import DRaFTSettings
from components.finetuning.algorithms.flow_dppo import FlowDPPOSettings
from components.finetuning.algorithms.flow_grpo import FlowGRPOSettings
from components.finetuning.algorithms.grpo_guard import GRPOGuardSettings
from components.finetuning.algorithms.hero import HEROSettings
from components.finetuning.algorithms.hive import HIVESettings
from components.finetuning.algorithms.kto import KTOSettings
from components.finetuning.algorithms.lee2023 import Lee2023Settings
from components.finetuning.algorithms.mix_grpo import MixGRPOSettings
from components.finetuning.algorithms.nft import NFTSettings
from components.finetuning.algorithms.prdp import PRDPSettings
from components.finetuning.algorithms.rebel import RebelSettings
from components.finetuning.algorithms.refl import ReFLSettings
from components.finetuning.algorithms.rlcm import RLCMSettings
from components.finetuning.algorithms.self_rewarding import SelfRewardingSettings
from components.finetuning.algorithms.sft import SFTSettings
from components.finetuning.algorithms.spo import SPOSettings
from components.finetuning.algorithms.supervised import SupervisedSettings
from components.finetuning.requirements import check
from components.rewards.scorers.settings import ModelScorerSettings, ScorerSettings

MethodSettings = Annotated[
    AWMSettings
    | AlignPropSettings
    | CPOSettings
    | CRDSettings
    | D3POSettings
    | DCOSettings
    | DDPOSettings
    | DGPOSettings
    | DPOKSettings
    | DRaFTSettings
    | DanceGRPOSettings
    | DiffusionDPOSettings
    | FlowDPPOSettings
    | FlowGRPOSettings
    | GRPOGuardSettings
    | HEROSettings
    | HIVESettings
    | KTOSettings
    | Lee2023Settings
    | MixGRPOSettings
    | NFTSettings
    | PRDPSettings
    | RLCMSettings
    | ReFLSettings
    | RebelSettings
    | SFTSettings
    | SPOSettings
    | SelfRewardingSettings
    | SupervisedSettings,
    Field(discriminator="name"),
]
"""A new method is one more name here."""


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
