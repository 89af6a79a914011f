"""Prompts that say how good their image is (HIVE, arXiv 2303.09618)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from components.contracts.errors import SettingsError
from components.diffusion import Policy
from components.finetuning.losses.sample_weights import reward_levels


class QualityPhrases:
    """Appends the phrase of each image's level to its prompt."""

    def __init__(self, phrases: Sequence[str], policy: Policy) -> None:
        """`phrases`, the worst level's first."""
        self.phrases, self.policy = phrases, policy
        self._checked = False

    def __call__(self, prompts: Sequence[str], reward: Float[Tensor, " n"]) -> list[str]:
        """The texts of all images.

        Raises:
            SettingsError: a phrase is cut off so that two levels read the same.
        """
        if not self._checked:
            for prompt in dict.fromkeys(prompts):
                self._check(prompt)
            self._checked = True
        levels = reward_levels(reward, len(self.phrases)).tolist()
        return [prompt + self.phrases[level] for prompt, level in zip(prompts, levels, strict=True)]

    def _check(self, prompt: str) -> None:
        states = self.policy.encode_prompts([prompt + phrase for phrase in self.phrases]).states
        for level, other in pairwise(states):
            if torch.equal(level, other):
                raise SettingsError(
                    f"the text encoder cuts '{prompt}{self.phrases[0]}' and sees no level",
                    allowed="a shorter method.phrase, or shorter prompts",
                )
