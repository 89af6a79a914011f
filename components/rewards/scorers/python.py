"""A scorer of one's own: `{name: python, callable: "package.module:build", arguments: {}}`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.plugins import build_plug
from components.contracts.protocols import Scorer
from components.rewards.scorers.settings import PythonScorerSettings


class PythonScorer:
    """Calls the plug and checks what comes back, since a plug is somebody else's code."""

    def __init__(self, scorer: Scorer, dotted: str) -> None:
        self._scorer, self._dotted = scorer, dotted

    @classmethod
    def build(cls, settings: PythonScorerSettings) -> PythonScorer:
        """Call `settings.callable` with its arguments; the result must have a method `score`.

        Raises:
            SettingsError: the path cannot be imported, the call refuses its arguments, or the
                result cannot score.
        """
        scorer = build_plug(settings)
        if not callable(getattr(scorer, "score", None)):
            raise SettingsError(
                f"'{settings.callable}' gives a {type(scorer).__name__} without a method 'score'",
                allowed="an object with score(images, prompts)",
            )
        return cls(scorer, settings.callable)

    @torch.no_grad()
    def score(
        self, images: UInt8[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Float32[Tensor, " b"]:
        """Scores of the plug, any scale, higher is better.

        Raises:
            SettingsError: the plug gave something else than one number an image.
        """
        scores = self._scorer.score(images, prompts)
        if not isinstance(scores, Tensor) or scores.shape != (len(images),):
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise SettingsError(
                f"'{self._dotted}' scored {len(images)} images with {shape}",
                allowed=f"a tensor of shape ({len(images)},)",
            )
        return scores.float()
