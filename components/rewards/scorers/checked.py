"""What every scorer is wrapped in: images are checked before it, and scores after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from components.contracts.errors import DataError, GuardError, QuarantinedData
from components.contracts.protocols import Scorer
from components.rewards.pictures import Images, check_images


class CheckedScorer:
    """A scorer whose mistakes are errors before anybody computes with its scores."""

    def __init__(self, scorer: Scorer, what: str) -> None:
        """`what` names the scorer in messages."""
        self._scorer, self._what = scorer, what

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow from a score to float images."""
        return self._scorer.differentiable

    @property
    def identity(self) -> str:
        """Who scores, where settings and files do not say it: a service's own account of itself."""
        return str(getattr(self._scorer, "identity", ""))

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """Scores of the scorer inside; a graph only for images that ask for a gradient.

        Raises:
            DataError: images of another shape, type or range, or not a prompt for each.
            GuardError: not one number an image, or scores that lost the gradient of the images.
            QuarantinedData: a score is not finite.
        """
        check_images(images, self._what)
        if len(images) != len(prompts):
            raise DataError(
                f"{self._what}: {len(images)} images and {len(prompts)} prompts",
                allowed="one prompt an image",
            )
        if not len(images):
            return torch.zeros(0, device=images.device)
        graph = self.differentiable and images.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(graph):
            scores = self._scorer.score(images if graph else images.detach(), prompts)
        return self._checked(scores, prompts, graph)

    def _checked(self, scores: Tensor, prompts: Sequence[str], graph: bool) -> Tensor:
        if scores.shape != (len(prompts),):
            raise GuardError(
                f"{self._what}: scored {len(prompts)} images with numbers of shape "
                f"{list(scores.shape)}; nothing was trained on them"
            )
        scores = scores.float()
        bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
        if bad:
            first = float(scores.detach()[bad[0]])
            raise QuarantinedData(
                f"{self._what}: {len(bad)} of {len(scores)} rewards are not finite, the first is "
                f"{first} for '{prompts[bad[0]]}'; nothing was trained on them"
            )
        if graph and not scores.requires_grad:
            raise GuardError(
                f"{self._what}: loses the gradient, its scores do not depend on the images; they "
                "must come from differentiable operations, without no_grad"
            )
        return scores
