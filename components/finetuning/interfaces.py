"""Two small protocols and what passes between them and the loop: a method is one of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from components.contracts.protocols import Scorer
from components.diffusion import Policy
from components.finetuning.prompt_pool import PromptPool

B = TypeVar("B", bound=Sized)
B_contra = TypeVar("B_contra", bound=Sized, contravariant=True)


class LossOutput(NamedTuple):
    """A scalar with its graph, and detached scalars for the curves.

    A metric whose name ends in `_max` is joined over micro-batches by its maximum, every other one
    by its mean over samples. Two names have a meaning for the guards: `ratio_deviation_max`
    (largest |ρ - 1|) and `kl` must be exactly 0 before the first optimizer step.
    """

    loss: Float[Tensor, ""]
    metrics: Mapping[str, Float[Tensor, ""]]


class Algorithm(Protocol[B_contra]):
    """The loss of a method. It holds no state."""

    def loss(self, policy: Policy, batch: B_contra, generator: torch.Generator) -> LossOutput:
        """The mean loss over the samples of one micro-batch."""
        ...


@dataclass(frozen=True)
class Round(Generic[B]):
    """What one call of `collect` found."""

    updates: Iterable[Sequence[B]]
    """One item an optimizer step: the micro-batches whose gradients it accumulates."""
    num_images: int
    """Images drawn in this round."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures of the round, for the curves (`reward`, `value_loss`, `dropped_groups` ...)."""
    drift: Mapping[str, float] = field(default_factory=dict)
    """Brightness, saturation and diversity of the policy's images; empty where it drew none."""

    def unwatched(self, name: str) -> Round[B]:
        """The same round, with a figure of `drift` that is told but that no tripwire watches."""
        told, watched = dict(self.metrics), dict(self.drift)
        if name in watched:
            told[name] = watched.pop(name)
        return replace(self, metrics=told, drift=watched)


class Experience(Protocol[B]):
    """Where batches come from, and everything that a method remembers between rounds."""

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[B]:
        """One round. All of its randomness comes from `generator`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that later rounds depend on, by name."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        ...


class Method(NamedTuple):
    """A method ready to run."""

    algorithm: Algorithm[Any]
    experience: Experience[Any]


@dataclass(frozen=True)
class MethodContext:
    """What a method's settings may build upon."""

    policy: Policy
    prompts: PromptPool
    scorer: Scorer
    batch_size: int
    """Images denoised together."""
    root: Path
    """The project's folder, for methods that read what people have said (`data/preferences`)."""
    generator: Callable[..., torch.Generator]
    """A generator for a purpose: `generator("value")`."""
