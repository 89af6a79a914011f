"""The training prompts, drawn so that every category has its share of every round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from components.contracts.errors import DataError
from components.contracts.tables import PROMPTS, read_table


@dataclass(frozen=True)
class PromptPool:
    """Prompts with their categories, in the order of the table."""

    prompts: Sequence[str]
    categories: Sequence[str]

    @staticmethod
    def read(path: Path) -> PromptPool:
        """Read a prompts table.

        Raises:
            DataError: the file cannot be read, or holds no prompt.
        """
        table = read_table(path, PROMPTS)
        if not table.num_rows:
            raise DataError("holds no prompts", file=path, allowed="at least one row")
        return PromptPool(table["prompt"].to_pylist(), table["category"].to_pylist())

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """Places of `count` prompts, as evenly from the categories as it divides; who gets one more
        is drawn.

        A prompt comes twice only where its category has fewer prompts than its share.
        """
        members = self._by_category()
        order = torch.randperm(len(members), generator=generator).tolist()
        drawn: list[int] = []
        for position, category in enumerate(order):
            share = (count + len(members) - 1 - position) // len(members)
            drawn += _cycle(members[category], share, generator)
        return drawn

    def first(self, per_category: int) -> list[int]:
        """Places of the first prompts of each category: the same at every call."""
        return [place for members in self._by_category() for place in members[:per_category]]

    def _by_category(self) -> list[list[int]]:
        members: dict[str, list[int]] = {}
        for place, category in enumerate(self.categories):
            members.setdefault(category, []).append(place)
        return [members[category] for category in sorted(members)]


def _cycle(members: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = []
    while len(drawn) < count:
        order = torch.randperm(len(members), generator=generator).tolist()
        drawn += [members[index] for index in order[: count - len(drawn)]]
    return drawn
