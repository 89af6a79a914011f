"""The trained reward model as a scorer: `{name: model, path: models/reward}`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.backbones import RewardModel, load_reward_model
from components.rewards.pictures import Images, in_equal_parts
from components.rewards.scorers.settings import ModelScorerSettings

CHUNK = 32
"""Images of one forward pass; the last pass is filled up to it."""


class ModelScorer:
    """Scores with a frozen `RewardModel`, about N(0, 1) on the images that it was trained on."""

    differentiable = True

    def __init__(self, model: RewardModel) -> None:
        self._model = model.eval().requires_grad_(False)
        self._text: dict[str, Tensor] = {}

    @classmethod
    def build(
        cls, settings: ModelScorerSettings, compute: ComputeSettings, root: Path
    ) -> ModelScorer:
        """Read the folder that the stage `rewards` wrote.

        Raises:
            ModelError: the folder is missing, truncated or of another kind.
        """
        return cls(load_reward_model(root / settings.path).to(find_device(compute)))

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """Rewards, higher is better; those of bytes and of floats differ by the rounding of bytes
        after resizing."""
        text = self._text_states(prompts)

        def rewards(rows: Tensor) -> Tensor:
            return self._model.reward(images[rows], text[rows])

        return in_equal_parts(len(images), CHUNK, rewards)

    @torch.no_grad()
    def _text_states(self, prompts: Sequence[str]) -> Tensor:
        # One prompt is scored many times in a run; its frozen states are computed once, alone, so
        # that they do not depend on the other prompts either.
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._text:
                self._text[prompt] = self._model.text_states(self._model.tokenize([prompt]))[0]
        if not prompts:
            return torch.zeros(0, 0, device=self._model.device)
        return torch.stack([self._text[prompt] for prompt in prompts])
