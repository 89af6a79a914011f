"""The newest transitions, first in first out, and batches drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class StoredTransitions:
    """Transitions as remembered: a prompt is its place in the pool, its text is looked up later."""

    x_t: Float[Tensor, "n c h w"]
    x_prev: Float[Tensor, "n c h w"]
    step: Int64[Tensor, " n"]
    prompt: Int64[Tensor, " n"]
    log_prob_old: Float[Tensor, " n"]
    reward: Float[Tensor, " n"]
    advantage: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, rows: Tensor | slice) -> StoredTransitions:
        return StoredTransitions(*(column[rows] for column in self.columns().values()))

    def columns(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class TransitionBuffer:
    """A FIFO of at most `capacity` transitions."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.stored: StoredTransitions | None = None

    def __len__(self) -> int:
        return 0 if self.stored is None else len(self.stored)

    def push(self, new: StoredTransitions) -> None:
        """Append; the oldest leave when there are more than `capacity`."""
        if self.stored is not None:
            old = self.stored.columns()
            new = StoredTransitions(
                *(torch.cat([old[name], column]) for name, column in new.columns().items())
            )
        # A copy, so that the memory of what has left is really freed.
        newest = new[slice(-self.capacity, None)].columns().values()
        self.stored = StoredTransitions(*(column.clone() for column in newest))

    def draw(self, count: int, generator: torch.Generator) -> StoredTransitions:
        """`count` transitions, uniformly and without replacement; all of them when it holds fewer.

        Raises:
            ValueError: nothing was pushed yet.
        """
        if self.stored is None:
            raise ValueError("an empty buffer has nothing to draw")
        return self.stored[torch.randperm(len(self.stored), generator=generator)[:count]]

    def state(self) -> dict[str, Tensor]:
        """The columns, oldest first; empty while nothing was pushed."""
        return {} if self.stored is None else self.stored.columns()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Hold exactly what `state` holds."""
        self.stored = StoredTransitions(**state) if state else None
