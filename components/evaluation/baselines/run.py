"""Every baseline that the settings ask for: the block `baselines` of `reports/evaluation.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from components.contracts.protocols import Judge, Scorer
from components.diffusion import Policy, sample_images
from components.evaluation.baselines.best_of_n import best_of_n, draw_more
from components.evaluation.baselines.choice import Choice, choice_figures
from components.evaluation.baselines.prompt_search import Encoding, rephrased, search
from components.evaluation.measure import Draws, Verdicts, choose_draws, rewards, verdicts
from components.evaluation.settings import BaselineSettings, PromptSearchSettings
from components.evaluation.summary import rounded


@dataclass(frozen=True)
class Bench:
    """What baselines are drawn and judged with."""

    policy: Policy
    judge: Judge
    scorer: Scorer
    seed_for: Callable[..., int]
    resamples: int
    """Of the bootstrap."""

    def draw(
        self, texts: Sequence[str], seeds: Sequence[int], description: str
    ) -> UInt8[Tensor, "n 3 h w"]:
        """The base's images."""
        return sample_images(
            self.policy, texts, seeds, adapter="reference", description=description
        )[0]

    def look(self, images: UInt8[Tensor, "n 3 h w"], asked: Sequence[str]) -> Verdicts:
        """Judge and reward, against what was asked."""
        return verdicts(images, asked, self.judge, self.scorer, "a baseline")

    def figures(self, choice: Choice, draws: Draws, lora: Verdicts) -> dict[str, Any]:
        """Of a baseline, and of the LoRA against it."""
        return choice_figures(choice, draws, lora, self.seed_for("bootstrap"), self.resamples)


def run_baselines(
    settings: BaselineSettings,
    bench: Bench,
    choose: Callable[[int], Draws],
    training_prompts: Path,
    base: Verdicts,
    lora: Verdicts,
    num_drawn: int,
) -> dict[str, Any]:
    """Figures of each baseline.

    Args:
        settings: which ones.
        bench: what they are drawn and judged with.
        choose: the test prompts with so many images each; fewer are the first of more.
        training_prompts: the table that a prompt search may learn from.
        base, lora: what was drawn anyway.
        num_drawn: images of each prompt among it.

    Raises:
        DataError: the training prompts cannot be read.
        GuardError: a reward or a score of a new image is not finite.
    """
    draws = choose(num_drawn)
    wanted = sorted({num_drawn, *settings.best_of})
    pool, prompt_of = base, draws.prompt_of
    if wanted[-1] > num_drawn:
        more = choose(wanted[-1])
        pool, prompt_of = draw_more(base, draws, more, bench.draw, bench.look)
    found: dict[str, Any] = {
        "best_of_n": {
            str(n): bench.figures(best_of_n(pool, prompt_of, n), draws, lora) for n in wanted
        },
        "prompt_search": None,
    }
    if settings.prompt_search is not None:
        found["prompt_search"] = _prompt_search(
            settings.prompt_search, bench, training_prompts, draws, base, lora
        )
    return found


def _prompt_search(
    settings: PromptSearchSettings,
    bench: Bench,
    training_prompts: Path,
    draws: Draws,
    base: Verdicts,
    lora: Verdicts,
) -> dict[str, Any]:
    """Search on training prompts, then draw and judge the test prompts with what was found."""
    trials = choose_draws(
        training_prompts,
        bench.seed_for("prompt search"),
        settings.prompts_per_category,
        settings.samples_per_prompt,
    )

    def reward_of(encoding: Encoding) -> float:
        texts = [rephrased(text, settings.slots, encoding) for text in trials.texts]
        template = rephrased("{prompt}", settings.slots, encoding)
        images = bench.draw(texts, trials.seeds, f"trying '{template}'")
        return float(rewards(images, trials.texts, bench.scorer).mean())

    generator = np.random.default_rng(bench.seed_for("prompt search"))
    seen = search(settings.slots, reward_of, settings, generator)
    found = base
    if seen.found != seen.start:
        texts = [rephrased(text, settings.slots, seen.found) for text in draws.texts]
        found = bench.look(bench.draw(texts, draws.seeds, "with the words found"), draws.texts)
    share = np.full(len(draws.seeds), len(draws.prompts) / len(draws.seeds))
    return {
        "template": rephrased("{prompt}", settings.slots, seen.found),
        "search_reward": [rounded(seen.rewards[name]) for name in (seen.start, seen.found)],
        "num_encodings": len(seen.rewards),
        "num_images": len(seen.rewards) * len(trials.seeds),
        **bench.figures(Choice(found, draws.prompt_of, share), draws, lora),
    }
