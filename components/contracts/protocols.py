"""What a plug must offer: the shapes of things that settings name by dotted path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Float32, Int64, UInt8
    from torch import Tensor


class Scorer(Protocol):
    """Anything that turns images and their prompts into one number each."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow from a score to float images."""
        ...

    def score(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Float32[Tensor, " b"]:
        """Scores, higher is better, on the scorer's device.

        They do not depend on how the images are batched. Images are bytes, or floats in [0, 1];
        floats that ask for a gradient give scores with their graph where `differentiable` is true.
        """
        ...


@runtime_checkable
class SeveralScorers(Scorer, Protocol):
    """Several rewards at once; `score` is the weighted sum of the parts as they are."""

    @property
    def labels(self) -> Sequence[str]:
        """Name of each part."""
        ...

    @property
    def weights(self) -> Sequence[float]:
        """Weight of each part."""
        ...

    def score_parts(
        self, images: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Float32[Tensor, "r b"]:
        """Scores of each part, not weighted; otherwise as `score`."""
        ...


class Judge(Protocol):
    """A held-out evaluator with a verdict and a known error of its own. Never a reward."""

    error_rate: float

    def score(
        self, images: UInt8[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Float32[Tensor, " b"]:
        """Scores, higher is better; images are bytes, no matter how they are batched."""
        ...

    def correct(
        self, images: UInt8[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Bool[Tensor, " b"]:
        """Whether each image shows what its prompt asks for."""
        ...


class People(Protocol):
    """Annotators who look at two images of one prompt."""

    names: Sequence[str]

    def compare(
        self,
        images_a: UInt8[Tensor, "n 3 h w"],
        images_b: UInt8[Tensor, "n 3 h w"],
        prompts: Sequence[str],
        annotator: int,
        generator: torch.Generator,
    ) -> Int64[Tensor, " n"]:
        """0 where the first image is preferred, 1 where the second is, 2 for a tie."""
        ...


@dataclass(frozen=True)
class Feedback:
    """What people say of the images of one request."""

    good: Bool[Tensor, " n"]
    """Whether each image is acceptable."""
    rank: Float32[Tensor, " n"]
    """How it compares with the other images of its prompt in this request: higher is better, equal
    is a tie. Any numbers will do, such as 1 for the best and 0 for the rest."""


class Labeller(Protocol):
    """People who look at a round of images: simulated ones, or real ones behind a page."""

    def label(
        self,
        images: UInt8[Tensor, "n 3 h w"],
        prompts: Sequence[str],
        generator: torch.Generator,
    ) -> Feedback:
        """Labels of one request, which may hold several images of each of several prompts.

        Nothing is remembered from request to request: a caller who wants an old image compared with
        new ones asks for both together. All chance comes from `generator`, a CPU generator.
        """
        ...


class StepScorer(Protocol):
    """A preference model that knows how far an image is from being finished (SPO)."""

    def score(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        prompts: Sequence[str],
        noise: Float32[Tensor, " b"],
    ) -> Float32[Tensor, " b"]:
        """Scores of images decoded from predicted clean latents, higher is better.

        `noise` is the share of noise in the latent that each was predicted from, √(1 - ᾱ) or a
        flow's σ: 0 for a finished image, 1 for pure noise. The difference of two scores is the
        logit of the first being preferred.
        """
        ...


class Tracker(Protocol):
    """Where a stage reports what happened: MLflow by `components.tracking`, nothing in tests."""

    run_id: str | None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings of the run; nested mappings become dotted names."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Figures of the run, in one call per step."""
        ...

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file or a folder that a reviewer should see."""
        ...

    def log_input(self, path: Path, digest: str, context: str) -> None:
        """A dataset that the run read, by the digest under which DVC knows it."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Facts to search runs by."""
        ...
