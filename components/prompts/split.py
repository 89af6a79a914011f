"""Train, validation and test: which prompt goes where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from components.contracts.seeds import derive_seed
from components.contracts.text import prompt_key
from components.prompts.curate import Prompt

SPLITS = ("train", "validation", "test")


def split_prompts(
    prompts: Sequence[Prompt], seed: int, validation_fraction: float, test_fraction: float
) -> dict[str, list[Prompt]]:
    """Split every category in the same proportions; each split is sorted by prompt id.

    Prompts stand in the order of a seeded hash of their id and each split takes its share from the
    front, so that a prompt's place does not depend on the order of the sources. A new prompt moves
    at most one other of its category across each border.
    """
    splits: dict[str, list[Prompt]] = {name: [] for name in SPLITS}
    for category in sorted({prompt.category for prompt in prompts}):
        members = [prompt for prompt in prompts if prompt.category == category]
        members.sort(key=lambda prompt: derive_seed(seed, "split", prompt.prompt_id))
        num_test = round(len(members) * test_fraction)
        num_validation = round(len(members) * validation_fraction)
        splits["test"] += members[:num_test]
        splits["validation"] += members[num_test : num_test + num_validation]
        splits["train"] += members[num_test + num_validation :]
    return {
        name: sorted(rows, key=lambda prompt: prompt.prompt_id) for name, rows in splits.items()
    }


def count_leakage(splits: Mapping[str, Sequence[Prompt]]) -> int:
    """Number of prompts, after normalisation, that stand in more than one split; it must be 0."""
    homes = Counter(
        key for rows in splits.values() for key in {prompt_key(prompt.prompt) for prompt in rows}
    )
    return sum(1 for count in homes.values() if count > 1)
