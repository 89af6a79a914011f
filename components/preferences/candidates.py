"""Which prompts are drawn, from which noise, and which of the images are compared."""

from __future__ import annotations

from collections.abc import Sequence

from components.contracts.errors import DataError
from components.contracts.ids import sample_id
from components.contracts.seeds import derive_seed
from components.preferences.records import SPLITS, PromptRow, Sample
from components.preferences.settings import Settings


def choose_prompts(prompts: Sequence[PromptRow], settings: Settings, seed: int) -> list[PromptRow]:
    """The same number of prompts of each category, fewer where there are not so many.

    Raises:
        DataError: the training split is empty.
    """
    if not any(prompt.split == "train" for prompt in prompts):
        raise DataError("holds no prompt", file="data/prompts/train.parquet")
    chosen = []
    for split in SPLITS:
        here = [prompt for prompt in prompts if prompt.split == split]
        wanted = (
            settings.prompts_per_category
            if split == "train"
            else settings.held_out_prompts_per_category
        )
        for category in sorted({prompt.category for prompt in here}):
            members = [prompt for prompt in here if prompt.category == category]
            members.sort(key=lambda prompt: derive_seed(seed, "candidate prompt", prompt.prompt_id))
            chosen += members[:wanted]
    return chosen


def candidates_of(prompt: PromptRow, model_digest: str, count: int, seed: int) -> list[Sample]:
    """`count` samples to draw of one prompt, each from its own seed."""
    seeds = [derive_seed(seed, "candidate", prompt.prompt_id, index) for index in range(count)]
    return [
        Sample(sample_id(prompt.prompt_id, model_digest, noise), prompt, noise) for noise in seeds
    ]


def choose_pairs(samples: Sequence[Sample], count: int, seed: int) -> list[tuple[Sample, Sample]]:
    """`count` different pairs of one prompt's samples, with every sample in about as many of them.

    The samples stand on a ring in seeded order. Neighbours are paired first, then those two apart,
    and so on: each full turn puts every sample into two more pairs.
    """
    ring = sorted(samples, key=lambda sample: derive_seed(seed, "ring", sample.sample_id))
    size = len(ring)
    pairs = [
        (ring[start], ring[(start + distance) % size])
        for distance in range(1, size // 2 + 1)
        # At half the ring a turn would meet every pair twice.
        for start in range(size // 2 if 2 * distance == size else size)
    ]
    return pairs[:count]
