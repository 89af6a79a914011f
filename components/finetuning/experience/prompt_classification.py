"""Whether a scorer tells an image's own prompt from prompts that are nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.protocols import SeveralScorers
from components.finetuning.experience.scoring import score
from components.finetuning.interfaces import MethodContext
from components.finetuning.losses.sample_weights import prompt_probability
from components.finetuning.prompt_pool import PromptPool

if TYPE_CHECKING:
    from components.finetuning.algorithms.lee2023 import PromptClassificationSettings


class PromptClassification:
    """`P(own prompt | image)^weight` of images, by a softmax over their scores with perturbed
    prompts (Lee et al., arXiv 2302.12192)."""

    def __init__(self, settings: PromptClassificationSettings, context: MethodContext) -> None:
        """Raises:
        SettingsError: several rewards: normalised among the images of each prompt, they do not
            say which prompt fits an image.
        """
        if isinstance(context.scorer, SeveralScorers):
            raise SettingsError(
                "prompt_classification compares the scores of several prompts, and several rewards "
                "are normalised within each",
                allowed="a single reward, or prompt_classification null",
            )
        self.settings, self.context = settings, context

    def __call__(
        self,
        images: UInt8[Tensor, "n 3 H W"],
        places: Sequence[int],
        reward: Float[Tensor, " n"],
        generator: torch.Generator,
    ) -> Float[Tensor, " n"]:
        """In [0, 1].

        Args:
            images: on the CPU.
            places: of each image's prompt in the pool.
            reward: of each image with its own prompt.
            generator: decides between prompts that are equally near.

        Raises:
            QuarantinedData, GuardError: scores that must not be used.
        """
        settings, pool = self.settings, self.context.prompts
        negatives = {
            place: near_misses(pool, place, settings.num_negatives, generator)
            for place in dict.fromkeys(places)
        }
        columns = [reward]
        for number in range(max(map(len, negatives.values()))):
            known = torch.tensor([number < len(negatives[place]) for place in places])
            texts = [pool.prompts[(negatives[place][number:] or [place])[0]] for place in places]
            scores = score(self.context.scorer, images, texts, self.context.batch_size).raw
            columns.append(torch.where(known, scores, -torch.inf))
        probability = prompt_probability(torch.stack(columns, 1), settings.temperature)
        return probability**settings.weight


def near_misses(pool: PromptPool, place: int, count: int, generator: torch.Generator) -> list[int]:
    """Places of other prompts of the same category that share most words with this one, nearest
    first; equally near ones in random order.

    Worked: of "a blue car", "a red car", "a red fox" and "two cars", all of one category, the two
    nearest to the first are "a red car" (two words shared) and "a red fox" (one).
    """
    words = set(pool.prompts[place].split())
    others = [
        other
        for other, category in enumerate(pool.categories)
        if category == pool.categories[place] and pool.prompts[other] != pool.prompts[place]
    ]
    order = torch.randperm(len(others), generator=generator).tolist()
    shuffled = [others[index] for index in order]
    # sorted keeps the random order of what is equally near.
    return sorted(shuffled, key=lambda other: -len(words & set(pool.prompts[other].split())))[
        :count
    ]
