"""One tiny backbone of every kind, for tests that hold for all of them."""

from __future__ import annotations

from pathlib import Path

from components.contracts.seeds import torch_generator
from components.rewards.backbones import RewardModel, open_backbone
from tests.support.tiny_blip import tiny_blip
from tests.support.tiny_clip import tiny_clip

KINDS = ("clip", "convolutional clip", "mlp", "blip", "convolutional blip")
ARCHITECTURES = {"mlp": "frozen_mlp", "blip": "cross_attention"}


def architecture_of(kind: str) -> str:
    """The name in the settings."""
    return ARCHITECTURES.get(kind.split()[-1], "two_towers")


def backbone(kind: str, folder: Path) -> Path:
    """Write the backbone of a kind."""
    make = tiny_blip if kind.endswith("blip") else tiny_clip
    return make(folder, convolutional=kind.startswith("convolutional"))


def opened(kind: str, folder: Path) -> RewardModel:
    """A reward model that starts from it, with constants of its own."""
    model = open_backbone(architecture_of(kind), backbone(kind, folder), torch_generator(0, "head"))
    model.mean, model.std = 0.25, 2.5
    return model.eval()
