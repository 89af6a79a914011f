"""The reward models: one architecture a file, behind `RewardModel` of `base.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from components.contracts.errors import ModelError
from components.rewards.backbones.base import CONSTANTS, RewardModel, read_constants
from components.rewards.backbones.cross_attention import CrossAttention
from components.rewards.backbones.frozen_mlp import FrozenMlp
from components.rewards.backbones.two_towers import TwoTowers

__all__ = ["RewardModel", "load_reward_model", "open_backbone"]

ARCHITECTURES: dict[str, type[RewardModel]] = {
    kind.architecture: kind for kind in (TwoTowers, CrossAttention, FrozenMlp)
}


def open_backbone(architecture: str, source: Path | str, generator: torch.Generator) -> RewardModel:
    """An untrained reward model from a pretrained backbone.

    Raises:
        ModelError: nothing is there, weights are missing or truncated, or it is another kind.
    """
    return ARCHITECTURES[architecture].open(source, generator)


def load_reward_model(folder: Path) -> RewardModel:
    """Read what `RewardModel.save` wrote; needs nothing but `folder`.

    Raises:
        ModelError: the folder is missing, truncated, of another kind or of an unknown version.
    """
    if not folder.is_dir():
        raise ModelError("no such model folder", file=folder)
    constants = read_constants(folder)
    if constants["architecture"] not in ARCHITECTURES:
        raise ModelError(
            f"has architecture '{constants['architecture']}'",
            file=folder / CONSTANTS,
            allowed=", ".join(ARCHITECTURES),
        )
    model = ARCHITECTURES[constants["architecture"]].read(folder, constants)
    model.mean, model.std = constants["mean"], constants["std"]
    model.symmetric = constants["symmetric"]
    return model
