"""Best of n: draw n images of a prompt with the base and show the one with the highest reward.

What every user of a reward model can have without training, at n times the drawing. Lee et al.
(arXiv 2302.12192) find it a strong baseline that costs no fidelity.

The mean over all subsets of n of the images drawn needs no subset: `contracts/selection.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from components.contracts.selection import selection_probabilities
from components.evaluation.baselines.choice import Choice
from components.evaluation.measure import Draws, Verdicts

Draw = Callable[[Sequence[str], Sequence[int], str], UInt8[Tensor, "n 3 h w"]]
"""The base's images of prompts and seeds, with a description for the progress line."""
Look = Callable[[Tensor, Sequence[str]], Verdicts]
"""Judge and reward of images against their prompts."""


def best_of_n(verdicts: Verdicts, prompt_of: NDArray[np.int64], n: int) -> Choice:
    """Which of the base's images is shown of each prompt."""
    probability = np.zeros(len(prompt_of))
    for prompt in np.unique(prompt_of):
        rows = prompt_of == prompt
        probability[rows] = selection_probabilities(verdicts.reward[rows], n)
    return Choice(verdicts, prompt_of, probability)


def draw_more(
    base: Verdicts, draws: Draws, more: Draws, draw: Draw, look: Look
) -> tuple[Verdicts, NDArray[np.int64]]:
    """Verdicts of the base's images and of further ones, and the prompt of each.

    Args:
        base: of the images of `draws`.
        draws: what is drawn of each prompt anyway.
        more: the same prompts with more images each, the first of them those of `draws`.
        draw: the base.
        look: judge and reward.

    One image of every prompt at a time is held, whatever the number.
    """
    drawn, largest = (len(of.seeds) // len(of.prompts) for of in (draws, more))
    texts, found, prompts = more.texts, [base], [draws.prompt_of]
    for sample in range(drawn, largest):
        rows = range(sample, len(more.seeds), largest)
        asked = [texts[row] for row in rows]
        images = draw(asked, [more.seeds[row] for row in rows], f"image {sample + 1} of {largest}")
        found.append(look(images, asked))
        prompts.append(more.prompt_of[list(rows)])
    return (
        Verdicts(
            *(
                np.concatenate([getattr(part, name) for part in found])
                for name in ("correct", "score", "reward")
            )
        ),
        np.concatenate(prompts),
    )
