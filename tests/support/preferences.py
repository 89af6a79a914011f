"""A small `data/preferences` written by the project's own writers: random latents and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from components.contracts.ids import prompt_id, sample_id
from components.contracts.seeds import torch_generator
from components.preferences.records import Album, Judgement, PromptRow, Sample

LATENT_SHAPE = (4, 8, 8)
"""Of the tiny bases."""
SAMPLES_PER_PROMPT = 3
PREFERENCE = {"a": 1.0, "b": 0.0, "tie": 0.5}
Said = tuple[int, int, str, str | float]
"""Numbers of two samples of a prompt, first the one shown as a; who said it; what was said, as a
label or as a share of a win for a."""
SAID: Sequence[Said] = (
    (0, 1, "ann", "a"),
    (1, 0, "ben", "a"),
    (2, 1, "ann", "a"),
    (1, 2, "ben", "b"),
    (0, 2, "ann", "tie"),
)
"""Ann prefers 0 to 1, Ben 1 to 0; both prefer 2 to 1, from other sides; 0 and 2 tie."""


def prompt_row(prompt: str, split: str = "train") -> PromptRow:
    """A prompt of the category colour."""
    return PromptRow(prompt_id(prompt), prompt, "colour", split)


def sample_of(prompt: PromptRow, number: int) -> Sample:
    """The sample of that number."""
    return Sample(sample_id(prompt.prompt_id, "tiny", number), prompt, number)


def latent_of(sample: Sample, shape: tuple[int, ...] = LATENT_SHAPE) -> torch.Tensor:
    """A latent of its own for each sample."""
    return torch.randn(shape, generator=torch_generator(0, "latent", sample.sample_id))


def write_preferences(
    folder: Path,
    said: Mapping[str, Sequence[Said]] | None = None,
    *,
    split: str = "train",
    latents: bool = True,
    latent_shape: tuple[int, ...] = LATENT_SHAPE,
) -> Path:
    """Write samples, latents and judgements, a shard a prompt, and return `folder`.

    Args:
        folder: `data/preferences` of a project.
        said: by prompt; by default `SAID` of three training prompts. Two more prompts, whose
            samples are the last, were judged for validation and test.
        split: of the prompts of `said`.
        latents: False leaves them out, as an import of labelled pictures does.
        latent_shape: (c, h, w).
    """
    everything = (
        {**dict.fromkeys(("train 0", "train 1", "train 2"), SAID)} if said is None else said
    )
    rows = [(prompt_row(text, split), found) for text, found in everything.items()]
    rows += [(prompt_row(text, text), SAID) for text in ("validation", "test")]
    with Album(folder) as album:
        for prompt, found in rows:
            samples = [sample_of(prompt, number) for number in range(SAMPLES_PER_PROMPT)]
            images = {
                sample.sample_id: torch.full((3, 32, 32), 20 * sample.seed, dtype=torch.uint8)
                for sample in samples
            }
            stored = {sample.sample_id: latent_of(sample, latent_shape) for sample in samples}
            album.add_shard(samples, images, stored if latents else None)
            names = [sample.sample_id for sample in samples]
            album.add(
                Judgement(prompt, names[a], names[b], annotator, PREFERENCE.get(label, label))
                for a, b, annotator, label in found
            )
    return folder
