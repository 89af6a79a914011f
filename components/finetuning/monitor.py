"""What a reward hides: validation prompts with the same noise at every look, and another judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from components.contracts.errors import SettingsError
from components.contracts.plugins import build_plug
from components.contracts.protocols import Judge, Scorer
from components.contracts.settings import PluginSettings
from components.diffusion import Policy, rollout
from components.finetuning.curves import Row
from components.finetuning.drift import drift_figures
from components.finetuning.experience.scoring import score
from components.finetuning.prompt_pool import PromptPool
from components.finetuning.settings import MonitorSettings


def load_judge(settings: PluginSettings) -> Judge:
    """The judge that the settings name.

    Raises:
        SettingsError: it cannot be imported or called, or cannot tell whether an image is correct.
    """
    judge: Judge = build_plug(settings)
    if not callable(getattr(judge, "correct", None)):
        raise SettingsError(
            f"'{settings.callable}' gives a {type(judge).__name__} without a method 'correct'",
            allowed="an object with correct(images, prompts)",
        )
    return judge


@dataclass(frozen=True)
class Monitor:
    """Looks at the policy as it is."""

    settings: MonitorSettings
    policy: Policy
    prompts: PromptPool
    scorer: Scorer
    judge: Judge | None
    seed_for: Callable[..., int]

    @torch.no_grad()
    def look(self) -> Row:
        """`validation_reward` (of several rewards their weighted sum, and each of them as
        `validation_reward/<label>`), drift figures, and `judge`: the share of correct images."""
        places = self.prompts.first(self.settings.prompts_per_category)
        prompt = torch.tensor(places).repeat_interleave(self.settings.samples_per_prompt)
        texts = [self.prompts.prompts[place] for place in prompt.tolist()]
        seeds = [self.seed_for("monitor", number) for number in range(len(texts))]
        size = self.policy.batch_size
        parts = []
        for start in range(0, len(texts), size):
            rows = slice(start, start + size)
            conditioning = self.policy.encode_prompts(texts[rows])
            parts.append(self.policy.decode(rollout(self.policy, conditioning, seeds[rows]).x0))
        images = torch.cat(parts)
        scored = score(self.scorer, images, texts, size)
        seen = {
            "validation_reward": float(scored.raw.mean()),
            **{f"validation_{name}": value for name, value in scored.part_figures().items()},
            **drift_figures(images.cpu(), prompt),
        }
        if self.judge:
            verdicts = [
                self.judge.correct(images[start : start + size], texts[start : start + size])
                for start in range(0, len(texts), size)
            ]
            seen["judge"] = float(torch.cat(verdicts).float().mean())
        return seen
