"""What one gets without a LoRA, as figures, and what the LoRA adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from components.evaluation.measure import Draws, Verdicts
from components.evaluation.statistics import as_floats, clustered_bootstrap, clustered_share
from components.evaluation.summary import estimate_figures


@dataclass(frozen=True)
class Choice:
    """Images of the base, m of them, with the probability that each is the one that is shown."""

    verdicts: Verdicts
    prompt_of: Int[NDArray[np.int64], " m"]
    """Prompt of each image, in the numbers of the draws."""
    probability: Float[NDArray[np.float64], " m"]
    """Sums to one over the images of a prompt."""

    def expected(
        self, values: Float[NDArray[np.float64], " m"], num_prompts: int
    ) -> Float[NDArray[np.float64], " p"]:
        """The mean of a figure of the shown image, for each prompt."""
        means = np.zeros(num_prompts)
        np.add.at(means, self.prompt_of, self.probability * values)
        return means


def choice_figures(
    choice: Choice, draws: Draws, lora: Verdicts, seed: int, resamples: int
) -> dict[str, Any]:
    """Figures of the shown image, and the LoRA's single image against it; intervals are 95 %.

    The prompt is the unit that was drawn at random, here as in `summary.py`. The LoRA wins by the
    judge's score; every one of its images meets every image that may be shown for the prompt, with
    that image's probability.
    """
    prompts = np.arange(len(draws.prompts))
    verdicts, columns = choice.verdicts, {}
    for name in ("correct", "score", "reward"):
        values = as_floats(getattr(verdicts, name))
        columns[name] = choice.expected(values, len(prompts))

    def share(rows: Bool[NDArray[np.bool_], " p"]) -> dict[str, Any]:
        images = int(rows[choice.prompt_of].sum())
        return estimate_figures(clustered_share(columns["correct"][rows], prompts[rows], images))

    def mean(name: str) -> dict[str, Any]:
        return estimate_figures(clustered_bootstrap(columns[name], prompts, seed, resamples))

    correct, score, reward = share(prompts >= 0), mean("score"), mean("reward")
    difference = as_floats(lora.correct) - columns["correct"][draws.prompt_of]
    return {
        "correct": correct["value"],
        "interval": correct["interval"],
        "score": score["value"],
        "score_interval": score["interval"],
        "reward": reward["value"],
        "reward_interval": reward["interval"],
        "lora_difference": estimate_figures(
            clustered_bootstrap(difference, draws.prompt_of, seed, resamples)
        ),
        "lora_win_rate": estimate_figures(
            clustered_share(_wins(choice, draws, lora), draws.prompt_of)
        ),
        "by_category": {name: share(rows) for name, rows in _prompts_by_category(draws).items()},
    }


def _wins(choice: Choice, draws: Draws, lora: Verdicts) -> Float[NDArray[np.float64], " n"]:
    """The probability that each image of the LoRA beats the shown one; a tie is half a win."""
    wins = np.zeros(len(draws.prompt_of))
    for prompt in range(len(draws.prompts)):
        ours, theirs = draws.prompt_of == prompt, choice.prompt_of == prompt
        ahead = np.subtract.outer(lora.score[ours], choice.verdicts.score[theirs])
        wins[ours] = (0.5 + 0.5 * np.sign(ahead)) @ choice.probability[theirs]
    # Sums of probabilities end a rounding error above one.
    return np.clip(wins, 0.0, 1.0)


def _prompts_by_category(draws: Draws) -> dict[str, Bool[NDArray[np.bool_], " p"]]:
    categories = np.array(draws.categories)
    return {name: categories == name for name in draws.category_names}
