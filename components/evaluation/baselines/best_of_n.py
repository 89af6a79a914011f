"""Best of n: draw n images of a prompt with the base and show the one with the highest reward.

What every user of a reward model can have without training, at n times the drawing. Lee et al.
(arXiv 2302.12192) find it a strong baseline that costs no fidelity.

Of N images drawn, n ≤ N, each subset of n has one best image. The mean over all subsets needs no
subset: an image is the best of those that hold it and n - 1 lower ones, so that with rewards in
rising order the image of rank i is shown with probability C(i - 1, n - 1) / C(N, n). The estimate
is unbiased for every n, from the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from components.evaluation.baselines.choice import Choice
from components.evaluation.measure import Draws, Verdicts

Draw = Callable[[Sequence[str], Sequence[int], str], UInt8[Tensor, "n 3 h w"]]
"""The base's images of prompts and seeds, with a description for the progress line."""
Look = Callable[[Tensor, Sequence[str]], Verdicts]
"""Judge and reward of images against their prompts."""


def selection_probabilities(
    reward: Float[NDArray[np.float64], " m"], n: int
) -> Float[NDArray[np.float64], " m"]:
    """How often each of m images of one prompt is the best of n drawn from them at random.

    Images of equal reward share what falls to them.

    Raises:
        ValueError: n is not from 1 to m.

    Worked: rewards (3, 1, 2), n = 2. The subsets {3, 1}, {3, 2}, {1, 2} show the first image twice
    and the third once: (2/3, 0, 1/3).
    """
    size = len(reward)
    if not 1 <= n <= size:
        raise ValueError(f"the best of {n} of {size} images")
    by_rank = np.array([comb(rank, n - 1) / comb(size, n) for rank in range(size)])
    _, tie, counts = np.unique(reward, return_inverse=True, return_counts=True)
    order = np.argsort(reward, kind="stable")
    shares = np.bincount(tie[order], by_rank) / counts
    return shares[tie]


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
