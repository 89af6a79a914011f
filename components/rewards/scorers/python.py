"""A scorer of one's own: `{name: python, callable: "package.module:build", arguments: {}}`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.plugins import build_plug
from components.contracts.protocols import DifferentiableScorer, Scorer
from components.rewards.scorers.settings import PythonScorerSettings


class PythonScorer:
    """Calls the plug and checks what comes back, since a plug is somebody else's code."""

    def __init__(self, scorer: Scorer, dotted: str) -> None:
        self._scorer, self._dotted = scorer, dotted

    @classmethod
    def build(cls, settings: PythonScorerSettings) -> PythonScorer:
        """Call `settings.callable` with its arguments; the result must have a method `score`, and
        `score_pixels` where it is said to be differentiable.

        Raises:
            SettingsError: the path cannot be imported, the call refuses its arguments, or the
                result cannot score.
        """
        scorer = build_plug(settings)
        _require(scorer, settings, "score", "an object with score(images, prompts)")
        if settings.differentiable:
            allowed = "differentiable false, or an object with score_pixels(pixels, prompts)"
            _require(scorer, settings, "score_pixels", allowed)
            return DifferentiablePythonScorer(scorer, settings.callable)
        return cls(scorer, settings.callable)

    @torch.no_grad()
    def score(
        self, images: UInt8[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Float32[Tensor, " b"]:
        """Scores of the plug, any scale, higher is better.

        Raises:
            SettingsError: the plug gave something else than one number an image.
        """
        return self._checked(self._scorer.score(images, prompts), len(images))

    def _checked(self, scores: object, count: int) -> Tensor:
        if not isinstance(scores, Tensor) or scores.shape != (count,):
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise SettingsError(
                f"'{self._dotted}' scored {count} images with {shape}",
                allowed=f"a tensor of shape ({count},)",
            )
        return scores.float()


class DifferentiablePythonScorer(PythonScorer):
    """A plug through which gradients flow; a black box has no `score_pixels` at all."""

    _scorer: DifferentiableScorer

    def score_pixels(
        self, pixels: Float32[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Float32[Tensor, " b"]:
        """Scores of the plug for pixels in [0, 1], with their graph.

        Raises:
            SettingsError: the plug gave something else than one number an image, or numbers that do
                not depend on pixels that ask for a gradient.
        """
        scores = self._checked(self._scorer.score_pixels(pixels, prompts), len(pixels))
        if pixels.requires_grad and not scores.requires_grad:
            raise SettingsError(
                f"'{self._dotted}' loses the gradient: its score_pixels gives constants",
                allowed="a score_pixels made of differentiable operations, without no_grad",
            )
        return scores


def _require(scorer: object, settings: PythonScorerSettings, method: str, allowed: str) -> None:
    if not callable(getattr(scorer, method, None)):
        raise SettingsError(
            f"'{settings.callable}' gives a {type(scorer).__name__} without a method '{method}'",
            allowed=allowed,
        )
