"""The whole audit as one function of a reward, a judge and images: no file, no tracker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from components.contracts.errors import QuarantinedData
from components.contracts.intervals import Estimate
from components.contracts.protocols import Judge, Scorer
from components.rewards.audit.best_of_n import BestOfN, best_of_n
from components.rewards.audit.checks import Check, all_checks
from components.rewards.audit.correlation import (
    STATISTICS,
    ColourCorrelation,
    agreement,
    colour_correlations,
)
from components.rewards.audit.data import Candidates
from components.rewards.audit.edits import EDITS
from components.rewards.audit.looking import look
from components.rewards.audit.resampling import Bootstrap
from components.rewards.audit.sensitivity import Sensitivity, Unedited, sensitivity, spread
from components.rewards.settings import AuditSettings

CONSTANT = 1e-6
"""A spread below this share of the reward's size is rounding, not choice."""


@dataclass(frozen=True)
class AuditReport:
    """What an audit found. Rewards are in spreads of the reward within a prompt."""

    best_of_n: BestOfN
    sensitivities: Sequence[Sensitivity]
    colours: Sequence[ColourCorrelation]
    agreement: Estimate
    checks: Sequence[Check]
    reward_spread: float
    """The unit: standard deviation of the reward among the images of one prompt."""
    judge_spread: float
    judge_error_rate: float
    reward: Float[NDArray[np.float64], " m"]
    """Of each image of the candidates."""
    score: Float[NDArray[np.float64], " m"]
    """The judge's."""
    correct: Bool[NDArray[np.bool_], " m"]
    """The judge's verdict."""

    @property
    def failed(self) -> list[Check]:
        """The demands that are not met."""
        return [check for check in self.checks if not check.passed]


def audit(
    scorer: Scorer,
    judge: Judge,
    data: Candidates,
    settings: AuditSettings,
    generator: torch.Generator,
) -> AuditReport:
    """Measure a reward against a judge that is not it, and decide.

    Args:
        scorer: the reward.
        judge: held out; what it likes is the measure.
        data: several images of each of some prompts that nothing was trained on.
        settings: how much is looked at, and the limits.
        generator: all of the chance, on the CPU.

    Raises:
        DataError: the judge cannot read a prompt, or tells no two images apart.
        GuardError: a score or a reward is not finite, or not one an image.
        QuarantinedData: the reward is the same for all images of each prompt.
    """
    bootstrap = Bootstrap(len(data.prompts), settings.num_resamples, generator)
    reward = look(data.images, data.texts, scorer.score, "the reward")
    score = look(data.images, data.texts, judge.score, "the judge")
    correct = look(data.images, data.texts, judge.correct, "the judge")
    units = spread(reward, data.prompt_of), spread(score, data.prompt_of)
    if units[0] <= CONSTANT * float(np.abs(reward).max()):
        raise QuarantinedData(
            f"the reward is the same for all images of each of {len(data.prompts)} prompts "
            f"(spread {units[0]:.3g}): there is nothing to climb"
        )
    reward = reward / units[0]
    best = best_of_n(reward, score, correct, data.prompt_of, data.num_images, bootstrap)
    unedited = Unedited(reward, score / units[1])
    rows = data.first(settings.edited_per_prompt)
    sensitivities = sensitivity(
        EDITS, scorer, judge, data, rows, unedited, units, bootstrap, generator
    )
    measured = {
        name: look(data.images, data.texts, lambda images, _: measure(images), name)  # noqa: B023
        for name, measure in STATISTICS.items()
    }
    colours = colour_correlations(measured, reward, score, data.prompt_of, bootstrap)
    agrees = agreement(score, reward, data.prompt_of, bootstrap)
    return AuditReport(
        best_of_n=best,
        sensitivities=sensitivities,
        colours=colours,
        agreement=agrees,
        checks=all_checks(settings, best, sensitivities, colours, agrees),
        reward_spread=units[0],
        judge_spread=units[1],
        judge_error_rate=float(judge.error_rate),
        reward=reward,
        score=score,
        correct=correct > 0.5,
    )
