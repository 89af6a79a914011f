"""Labels of a round's images: from the reward in the place of people, or from a plug."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.plugins import build_plug
from components.contracts.protocols import Feedback, Labeller
from components.finetuning.experience.scoring import Scored, score_to_learn
from components.finetuning.interfaces import MethodContext
from components.finetuning.labels import PluggedLabels, RewardLabels


class RewardLabeller:
    """The context's reward says what is good (HERO's evaluation without raters does the same)."""

    def __init__(self, settings: RewardLabels, context: MethodContext) -> None:
        self.settings, self.context = settings, context
        self.scored: Scored | None = None
        """Of the newest request, for the curves."""

    def label(
        self, images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], generator: torch.Generator
    ) -> Feedback:
        """Good from the standard of the settings, flips included; ranked by the score as it is.

        Raises:
            QuarantinedData, GuardError: the reward's scores must not be trained on.
        """
        context = self.context
        self.scored = score_to_learn(context.scorer, images, prompts, context.batch_size)
        scores = self.scored.reward
        good = scores >= self._standard(scores, prompts)
        flipped = torch.rand(len(scores), generator=generator) < self.settings.flip_probability
        return Feedback(good ^ flipped, scores)

    def _standard(self, scores: Float[Tensor, " n"], prompts: Sequence[str]) -> Float[Tensor, " n"]:
        """What each score must reach."""
        if self.settings.unit == "score":
            return torch.full_like(scores, self.settings.good_above)
        standard = torch.empty_like(scores)
        for prompt in dict.fromkeys(prompts):
            rows = torch.tensor([other == prompt for other in prompts])
            standard[rows] = scores[rows].quantile(self.settings.good_above)
        return standard


class PluggedLabeller:
    """Calls the plug and checks what comes back, since a plug is somebody else's code."""

    def __init__(self, labeller: Labeller, dotted: str) -> None:
        self._labeller, self._dotted = labeller, dotted

    @classmethod
    def build(cls, settings: PluggedLabels) -> PluggedLabeller:
        """Call `settings.callable` with its arguments; the result must have a method `label`.

        Raises:
            SettingsError: the path cannot be imported, the call refuses its arguments, or the
                result cannot label.
        """
        labeller = build_plug(settings)
        if not callable(getattr(labeller, "label", None)):
            raise SettingsError(
                f"'{settings.callable}' gives a {type(labeller).__name__} without a method 'label'",
                allowed="an object with label(images, prompts, generator)",
            )
        return cls(labeller, settings.callable)

    @torch.no_grad()
    def label(
        self, images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], generator: torch.Generator
    ) -> Feedback:
        """Labels of the plug.

        Raises:
            SettingsError: the plug gave something else than a verdict and a number an image.
        """
        found = self._labeller.label(images, prompts, generator)
        good, rank = torch.as_tensor(found.good).cpu(), torch.as_tensor(found.rank).cpu()
        wanted = (len(images),)
        if good.shape != wanted or rank.shape != wanted or good.dtype != torch.bool:
            raise SettingsError(
                f"'{self._dotted}' labelled {len(images)} images with good {tuple(good.shape)} of "
                f"{good.dtype} and rank {tuple(rank.shape)}",
                allowed=f"tensors of shape ({len(images)},), good of torch.bool",
            )
        if not bool(torch.isfinite(rank.float()).all()):
            raise SettingsError(
                f"'{self._dotted}' ranked an image with a number that is not finite",
                allowed="finite numbers",
            )
        return Feedback(good, rank.float())
