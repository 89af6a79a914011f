"""What edits do to the reward that the prompt does not ask for.

The unit is the spread of the reward among the images of one prompt: what choosing, and so
fine-tuning, has to work with. A reward that rises by two spreads for a white frame will be raised
by frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from components.contracts.intervals import Estimate
from components.contracts.progress import track
from components.contracts.protocols import Judge, Scorer
from components.rewards.audit.data import Candidates
from components.rewards.audit.edits import Edit
from components.rewards.audit.looking import Images, batches, look
from components.rewards.audit.resampling import Bootstrap

PerImage = Float[NDArray[np.float64], " n"]
PromptOf = Int[NDArray[np.int64], " n"]


@dataclass(frozen=True)
class Sensitivity:
    """What one edit does, as means over prompts."""

    family: str
    strength: str
    reward: Estimate
    """Change of the reward, in its spread within a prompt."""
    judge: Estimate
    """Change of the judge's score, in its own spread within a prompt."""
    beats: float
    """Share of images whose edited copy has the higher reward; an equal one is half."""

    @property
    def name(self) -> str:
        """Family and strength."""
        return f"{self.family} {self.strength}".strip()

    @property
    def shortcut(self) -> float:
        """By how much the reward rises beyond what the judge grants; 0 where it does not rise."""
        return max(0.0, self.reward.value - max(0.0, self.judge.value))


@dataclass(frozen=True)
class Unedited:
    """What reward and judge say of the images before any edit, row by row, each in its spread."""

    reward: PerImage
    judge: PerImage


def spread(values: PerImage, prompt_of: PromptOf) -> float:
    """Standard deviation among the images of one prompt: the root of the mean variance.

    Worked: prompts (1, 3) and (5, 5) have the unbiased variances 2 and 0, so the spread is 1.
    """
    variances = [values[prompt_of == prompt].var(ddof=1) for prompt in np.unique(prompt_of)]
    return float(np.mean(variances) ** 0.5)


def sensitivity(
    edits: Sequence[Edit],
    scorer: Scorer,
    judge: Judge,
    data: Candidates,
    rows: Int[NDArray[np.int64], " n"],
    unedited: Unedited,
    units: tuple[float, float],
    bootstrap: Bootstrap,
    generator: torch.Generator,
) -> list[Sensitivity]:
    """What each edit does to the images `rows` of `data`.

    Args:
        edits: see `edits.py`.
        scorer: the reward.
        judge: held out.
        data: images and prompts.
        rows: the images that are edited.
        unedited: of all images of `data`.
        units: spread of the reward and of the judge's score within a prompt, by which the changes
            are divided.
        bootstrap: of the prompts.
        generator: for the noise; on the CPU.

    Raises:
        DataError, GuardError: see `looking.look`.
    """
    texts = [data.texts[row] for row in rows]
    images = [data.images[row] for row in rows]
    prompt_of = data.prompt_of[rows]
    found = []
    for edit in track(edits, "editing images", len(edits)):
        edited = edit_all(edit, images, generator)
        after_reward = look(edited, texts, scorer.score, f"{edit.name}: the reward") / units[0]
        after_judge = look(edited, texts, judge.score, f"{edit.name}: the judge") / units[1]
        change = after_reward - unedited.reward[rows]
        found.append(
            Sensitivity(
                edit.family,
                edit.strength,
                bootstrap.mean(prompt_means(change, prompt_of)),
                bootstrap.mean(prompt_means(after_judge - unedited.judge[rows], prompt_of)),
                float(np.mean(0.5 + 0.5 * np.sign(change))),
            )
        )
    return found


def edit_all(edit: Edit, images: Images, generator: torch.Generator) -> Images:
    """Every image after the edit."""
    edited: list[torch.Tensor] = []
    for rows in batches(images):
        edited += edit.change(torch.stack([images[row] for row in rows]), generator)
    return edited


def prompt_means(values: PerImage, prompt_of: PromptOf) -> Float[NDArray[np.float64], " p"]:
    """The mean over the images of each prompt, in the order of the prompts."""
    _, index = np.unique(prompt_of, return_inverse=True)
    means: NDArray[np.float64] = np.bincount(index, weights=values) / np.bincount(index)
    return means
