"""Several rewards at once: `{name: several, scorers: [{weight: 1.0, scorer: {...}}, ...]}`.

What is scored here are the parts as they are. Fine-tuning normalises each of them among the images
of a prompt before the weights apply (`components/finetuning/losses/several.py`): a weighted sum of
rewards on different scales would be the reward with the largest scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from components.contracts.protocols import Scorer, SeveralScorers
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import SeveralScorerSettings


class SeveralScorer:
    """Scores with each part; whatever a part does wrong is said in its own name."""

    def __init__(
        self, scorers: Sequence[Scorer], labels: Sequence[str], weights: Sequence[float]
    ) -> None:
        self._scorers = tuple(scorers)
        self.labels, self.weights = tuple(labels), tuple(weights)

    @classmethod
    def build(
        cls, settings: SeveralScorerSettings, compute: ComputeSettings, root: Path
    ) -> SeveralScorer:
        """Build every part.

        Raises:
            ModelError, SettingsError, TransientError: of a part.
        """
        scorers = [
            build_scorer(part.scorer, compute, root, f"reward part '{label}'")
            for part, label in zip(settings.scorers, settings.labels, strict=True)
        ]
        return cls(scorers, settings.labels, [part.weight for part in settings.scorers])

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through every part."""
        return all(scorer.differentiable for scorer in self._scorers)

    @property
    def identity(self) -> str:
        """Of all parts, see `CheckedScorer`."""
        return " ".join(str(getattr(scorer, "identity", "")) for scorer in self._scorers)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """The weighted sum of the parts as they are, for who compares images of many prompts."""
        return weighted_sum(self.score_parts(images, prompts), self.weights)

    def score_parts(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, "r b"]:
        """Scores of each part, in the order of `labels`, on the device of the first."""
        first, *others = (scorer.score(images, prompts) for scorer in self._scorers)
        return torch.stack([first, *(scores.to(first.device) for scores in others)])


def weighted_sum(parts: Float32[Tensor, "r b"], weights: Sequence[float]) -> Float32[Tensor, " b"]:
    """`Σ w_k r_k`.

    Worked: parts (1, 2 | 10, 30) with weights (1, -0.1) give (0, -1).
    """
    return (parts * parts.new_tensor(list(weights))[:, None]).sum(0)


def score_with_parts(
    scorer: Scorer, images: Images, prompts: Sequence[str]
) -> tuple[Float32[Tensor, " b"], dict[str, Float32[Tensor, " b"]]]:
    """The score of any scorer, and the parts of it where it is several by label."""
    if not isinstance(scorer, SeveralScorers):
        return scorer.score(images, prompts), {}
    parts = scorer.score_parts(images, prompts)
    return weighted_sum(parts, scorer.weights), dict(zip(scorer.labels, parts, strict=True))
