"""Draw the same prompts from the same noise with both models, and measure every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from components.contracts.errors import DataError, GuardError
from components.contracts.image_statistics import brightness, diversity, saturation
from components.contracts.progress import track
from components.contracts.protocols import Judge, Scorer
from components.contracts.seeds import derive_seed
from components.contracts.tables import PROMPTS, read_table
from components.rewards.scorers.several import score_with_parts

CHUNK = 64
"""Images that are judged and scored together; by contract no score depends on it."""


@dataclass(frozen=True)
class Draws:
    """Which images are drawn: row i is one image of either model. n rows, p prompts."""

    prompts: Sequence[str]
    """Text of each prompt, p."""
    categories: Sequence[str]
    """Category of each prompt, p."""
    prompt_of: Int[NDArray[np.int64], " n"]
    """Prompt of each row: rows of one prompt follow each other."""
    seeds: Sequence[int]
    """Noise of each row, the same for both models."""

    @property
    def texts(self) -> list[str]:
        """The prompt of each row."""
        return [self.prompts[index] for index in self.prompt_of]

    def rows_of(self, category: str) -> Bool[NDArray[np.bool_], " n"]:
        """Which rows answer a prompt of this category."""
        of_prompt = np.array([name == category for name in self.categories])
        return of_prompt[self.prompt_of]

    @property
    def category_names(self) -> list[str]:
        """The categories in alphabetical order."""
        return sorted(set(self.categories))


@dataclass(frozen=True)
class Verdicts:
    """What judge and reward say of n images."""

    correct: Bool[NDArray[np.bool_], " n"]
    """The judge's verdict."""
    score: Float[NDArray[np.float64], " n"]
    """The judge's score; higher is better."""
    reward: Float[NDArray[np.float64], " n"]
    """Of several rewards the weighted sum, as they are."""
    parts: Mapping[str, Float[NDArray[np.float64], " n"]] = field(
        default_factory=dict, kw_only=True
    )
    """Of several rewards each one, by its label."""


@dataclass(frozen=True)
class Measured(Verdicts):
    """What one model drew, row by row of the draws, and what was measured of it."""

    images: UInt8[Tensor, "n 3 h w"]
    brightness: Float[NDArray[np.float64], " n"]
    saturation: Float[NDArray[np.float64], " n"]
    diversity: float
    """Mean distance among the images of one prompt; see `image_statistics.diversity`."""


def choose_draws(
    table_path: Path, seed: int, prompts_per_category: int, samples_per_prompt: int
) -> Draws:
    """A balanced subset of a prompts table, drawn by hash of the prompt's id.

    Drawing by hash keeps a prompt's place and noise when other prompts come or go.

    Raises:
        DataError: the table is unreadable or holds no prompt.
    """
    rows = read_table(table_path, PROMPTS).to_pylist()
    if not rows:
        raise DataError("holds no prompt", file=table_path, allowed="at least one row")
    rows.sort(key=lambda row: derive_seed(seed, "choose", row["prompt_id"]))
    chosen = []
    for category in sorted({row["category"] for row in rows}):
        of_category = [row for row in rows if row["category"] == category]
        chosen += of_category[:prompts_per_category]
    return Draws(
        prompts=[row["prompt"] for row in chosen],
        categories=[row["category"] for row in chosen],
        prompt_of=np.repeat(np.arange(len(chosen)), samples_per_prompt),
        seeds=[
            derive_seed(seed, "noise", row["prompt_id"], sample)
            for row in chosen
            for sample in range(samples_per_prompt)
        ],
    )


def rewards(
    images: UInt8[Tensor, "n 3 h w"], texts: Sequence[str], scorer: Scorer
) -> Float[NDArray[np.float64], " n"]:
    """The reward of images against what each was asked to show.

    Raises:
        QuarantinedData: one is not finite, since no mean of them would be either.
    """
    parts = [
        scorer.score(images[start : start + CHUNK], texts[start : start + CHUNK])
        for start in range(0, len(images), CHUNK)
    ]
    return _numbers(torch.cat(parts))


def verdicts(
    images: UInt8[Tensor, "n 3 h w"],
    texts: Sequence[str],
    judge: Judge,
    scorer: Scorer,
    whose: str,
) -> Verdicts:
    """Judge and reward of images against what each was asked to show.

    Raises:
        DataError: the judge cannot read a prompt.
        GuardError: a score of the judge is not finite, since no mean of it would be either.
        QuarantinedData: the same of a reward.
    """
    correct, score, reward = [], [], []
    parts: dict[str, list[Tensor]] = {}
    starts = range(0, len(images), CHUNK)
    for start in track(starts, f"judging the images of {whose}", len(starts)):
        part, prompts = images[start : start + CHUNK], texts[start : start + CHUNK]
        try:
            correct.append(judge.correct(part, prompts))
            score.append(judge.score(part, prompts))
        except ValueError as error:
            raise DataError(f"the judge cannot read these prompts ({error})") from None
        scores, of_parts = score_with_parts(scorer, part, prompts)
        reward.append(scores)
        for label, values in of_parts.items():
            parts.setdefault(label, []).append(values)
    return Verdicts(
        torch.cat(correct).cpu().numpy().astype(np.bool_),
        _finite(torch.cat(score), f"{whose}: the judge"),
        _numbers(torch.cat(reward)),
        parts={label: _numbers(torch.cat(values)) for label, values in parts.items()},
    )


def measure(
    images: UInt8[Tensor, "n 3 h w"], draws: Draws, judge: Judge, scorer: Scorer, whose: str
) -> Measured:
    """Judge, reward and image statistics of one model's images.

    Raises:
        DataError, GuardError, QuarantinedData: see `verdicts`.
    """
    found = verdicts(images, draws.texts, judge, scorer, whose)
    parts = images.split(CHUNK)
    return Measured(
        images=images,
        correct=found.correct,
        score=found.score,
        reward=found.reward,
        parts=found.parts,
        brightness=_numbers(torch.cat([brightness(part) for part in parts])),
        saturation=_numbers(torch.cat([saturation(part) for part in parts])),
        diversity=diversity(images, torch.from_numpy(draws.prompt_of)),
    )


def _finite(values: Tensor, what: str) -> Float[NDArray[np.float64], " n"]:
    found = _numbers(values)
    if bad := int((~np.isfinite(found)).sum()):
        raise GuardError(f"{what} is not finite for {bad} of {len(found)} images")
    return found


def _numbers(values: Tensor) -> Float[NDArray[np.float64], " n"]:
    return values.detach().cpu().double().numpy()
