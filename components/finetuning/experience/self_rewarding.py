"""Rounds of a policy that learns from its own images, best against worst, and moves its anchor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.diffusion import Conditioning, Policy
from components.finetuning.batches import PreferencePairs
from components.finetuning.denoising_errors import noised_pairs
from components.finetuning.experience.calibration import Unscaled, calibrated_beta
from components.finetuning.experience.drawing import draw, reward_of
from components.finetuning.experience.judged import Judged, order_by_reward
from components.finetuning.experience.preferences import (
    CALIBRATION_SAMPLES,
    pair_batches,
    shuffled,
)
from components.finetuning.interfaces import MethodContext, Round

if TYPE_CHECKING:
    from components.finetuning.algorithms.self_rewarding import SelfRewardingSettings


class SelfRewarded:
    """Draw, score, pair; the anchor is a snapshot of the policy and is saved with it."""

    def __init__(
        self, settings: SelfRewardingSettings, context: MethodContext, unscaled: Unscaled
    ) -> None:
        self.settings, self.context, self.unscaled = settings, context, unscaled
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        self.rounds = 0
        """Rounds collected so far."""
        self.calibrated: float | None = None
        """dpo_beta as measured before training; None where it was not."""

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[PreferencePairs]:
        """One round; a round without a pair has no updates.

        Raises:
            QuarantinedData, GuardError: rewards, or a temperature, that must not be trained on.
        """
        from components.finetuning.algorithms.self_rewarding import ANCHOR

        settings = self.settings
        if self.rounds % settings.refresh_every == 0:
            policy.remember(ANCHOR)
        self.rounds += 1
        drawn = draw(
            self.context,
            policy,
            self.text,
            self.context.prompts.draw(settings.prompts_per_round, generator),
            settings.images_per_prompt,
            generator,
            keep_trajectories=False,
        )
        scored = reward_of(self.context, drawn)
        reward = scored.reward
        judged = order_by_reward(drawn.x0, drawn.texts, reward, drawn.group, settings.choose)
        paired = len(set(drawn.group[judged.winner].tolist()))
        metrics = {
            **scored.figures(),
            "dropped_groups": float(settings.prompts_per_round - paired),
        }
        if settings.calibrate and self.calibrated is None and len(judged):
            self.calibrated = self._calibrate(policy, judged, settings.calibrate)
        if self.calibrated is not None:
            metrics["dpo_beta"] = self.calibrated
        return Round(self._updates(judged, generator), len(reward), metrics, drawn.drift())

    def _updates(
        self, judged: Judged, generator: torch.Generator
    ) -> Iterator[list[PreferencePairs]]:
        if not len(judged):
            return
        settings = self.settings
        rows = shuffled(len(judged), settings.pairs_per_update, generator)
        for _ in range(settings.updates_per_round):
            yield pair_batches(self.context, judged, next(rows), self.calibrated)

    def _calibrate(self, policy: Policy, judged: Judged, target: float) -> float:
        generator = self.context.generator("calibration")
        rows = next(shuffled(len(judged), CALIBRATION_SAMPLES, generator))
        batches = [
            noised_pairs(policy, batch, generator, self.settings.noise_levels)
            for batch in pair_batches(self.context, judged, rows, None)
        ]
        return calibrated_beta(
            policy, batches, self.settings.error, self.unscaled, target, generator
        )

    def state(self) -> dict[str, Tensor]:
        """The number of rounds, which decides when the anchor moves, and the temperature."""
        found = {"rounds": torch.tensor(self.rounds)}
        if self.calibrated is not None:
            found["calibrated"] = torch.tensor(self.calibrated, dtype=torch.float64)
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.rounds = int(state["rounds"])
        found = state.get("calibrated")
        self.calibrated = None if found is None else float(found)
