"""Batches of whole prompts, with everything that was said of their pictures.

As in ImageReward (2304.05977) all comparisons of a prompt share one forward pass: an image that
stands in three pairs is encoded once, and not learnt by heart from three updates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from components.rewards.dataset import Preferences


@dataclass(frozen=True)
class Batch:
    """Rows of the training split's pairs, ranking entries and ratings."""

    pairs: Int64[Tensor, " k"]
    ranked: Int64[Tensor, " k"]
    rated: Int64[Tensor, " k"]

    def __len__(self) -> int:
        return len(self.pairs) + len(self.ranked) + len(self.rated)


class Batches:
    """The training split by prompt; each pass is in a new order."""

    def __init__(
        self,
        data: Preferences,
        pairs: Int64[Tensor, " k"],
        prompts: Int64[Tensor, " p"] | None = None,
        *,
        ranked: bool = False,
        rated: bool = False,
    ) -> None:
        """Args:
        data: of which the training split is taken.
        pairs: rows of its pairs.
        prompts: the only ones that are trained on; None for all.
        ranked: whether whole rankings are trained on.
        rated: whether ratings are trained on.
        """
        train = data.splits["train"]
        rankings, ratings = data.rankings["train"], data.ratings["train"]
        empty = torch.zeros(0, dtype=torch.long)
        self._pairs = _ByPrompt(pairs, data.prompt_of[train.image_a[pairs]])
        every = torch.arange(len(rankings)) if ranked else empty
        self._ranked = _ByPrompt(every, data.prompt_of[rankings.image[every]])
        every = torch.arange(len(ratings)) if rated else empty
        self._rated = _ByPrompt(every, data.prompt_of[ratings.image[every]])
        self.prompts = torch.cat(
            [part.prompts for part in (self._pairs, self._ranked, self._rated)]
        ).unique()
        if prompts is not None:
            self.prompts = self.prompts[torch.isin(self.prompts, prompts)]

    def __len__(self) -> int:
        """Judgements of a pass."""
        return len(self.of(self.prompts))

    def of(self, prompts: Int64[Tensor, " p"]) -> Batch:
        """Everything that was said of these prompts' pictures."""
        return Batch(self._pairs.of(prompts), self._ranked.of(prompts), self._rated.of(prompts))

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One pass, `batch_size` judgements or more in each batch but the last."""
        order = self.prompts[torch.randperm(len(self.prompts), generator=generator)]
        sizes = sum(part.count(order) for part in (self._pairs, self._ranked, self._rated))
        start = filled = 0
        for end, size in enumerate(sizes.tolist(), start=1):  # type: ignore[union-attr]
            filled += size
            if filled >= batch_size or end == len(order):
                yield self.of(order[start:end])
                start, filled = end, 0


class _ByPrompt:
    """Rows sorted by prompt, so that those of a prompt are found without looking at all."""

    def __init__(self, rows: Int64[Tensor, " n"], prompt: Int64[Tensor, " n"]) -> None:
        order = prompt.argsort(stable=True)
        self._rows, self._prompt = rows[order], prompt[order]
        self.prompts = self._prompt.unique()

    def count(self, prompts: Int64[Tensor, " p"]) -> Int64[Tensor, " p"]:
        first, last = self._span(prompts)
        return last - first

    def of(self, prompts: Int64[Tensor, " p"]) -> Int64[Tensor, " k"]:
        first, last = self._span(prompts)
        count = last - first
        # For each prompt the places first, first + 1, ..., last - 1, side by side.
        begins = count.cumsum(0) - count
        inside = torch.arange(int(count.sum())) - begins.repeat_interleave(count)
        return self._rows[first.repeat_interleave(count) + inside]

    def _span(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        prompts = prompts.contiguous()
        return (
            torch.searchsorted(self._prompt, prompts),
            torch.searchsorted(self._prompt, prompts, right=True),
        )
