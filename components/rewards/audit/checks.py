"""The four checks that decide whether a reward may be climbed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.contracts.intervals import Estimate
from components.pages.numbers import decimal, percent, percent_interval, signed, signed_interval
from components.rewards.audit.best_of_n import BestOfN
from components.rewards.audit.correlation import ColourCorrelation
from components.rewards.audit.sensitivity import Sensitivity
from components.rewards.settings import AuditSettings


@dataclass(frozen=True)
class Check:
    """One demand on a reward."""

    name: str
    figure: float
    limit: float
    at_most: bool
    """Whether the figure must not lie above the limit; else not below."""
    sentence: str
    """What was found, with its interval."""
    brief: str
    """What is wrong with it where the demand is not met, in a few words."""

    @property
    def passed(self) -> bool:
        """Whether the demand is met."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit


def all_checks(
    settings: AuditSettings,
    best: BestOfN,
    sensitivities: Sequence[Sensitivity],
    colours: Sequence[ColourCorrelation],
    agreement: Estimate,
) -> list[Check]:
    """Every check, in the order in which they are told."""
    return [
        _captured(best, settings.min_captured),
        _shortcut(sensitivities, settings.max_shortcut),
        _colour(colours, settings.max_colour_correlation),
        _agreement(agreement, settings.min_agreement),
    ]


def _captured(best: BestOfN, limit: float) -> Check:
    found = best.captured
    sentence = (
        f"choosing the best of {best.num_images} by the reward gets {percent(found.value)} "
        f"{_percent_ends(found)} of what the judge's own choice gains"
    )
    if best.fall.above_zero:
        sentence += f", and the judge's score falls beyond {best.peak} images"
    brief = f"its choice gets only {percent(found.value)} of the judge's own gain"
    return Check("captured", found.low, limit, False, sentence, brief)


def _shortcut(sensitivities: Sequence[Sensitivity], limit: float) -> Check:
    worst = max(sensitivities, key=lambda found: found.shortcut)
    change = (
        f"{worst.name} changes the reward by {signed(worst.reward.value)} "
        f"{signed_interval((worst.reward.low, worst.reward.high))} of its spread within a prompt, "
        f"the judge's score by {signed(worst.judge.value)}"
    )
    beyond = sum(found.shortcut > limit for found in sensitivities)
    if beyond > 1:
        change += f" ({beyond - 1} more edits are shortcuts)"
    if worst.shortcut == 0:
        change = "no edit raises the reward beyond what the judge grants"
    brief = f"{worst.name} raises it by {decimal(worst.shortcut)} spreads for nothing"
    return Check("shortcut", worst.shortcut, limit, True, change, brief)


def _colour(colours: Sequence[ColourCorrelation], limit: float) -> Check:
    if not colours:
        alike = "the images of a prompt do not differ in colour"
        return Check("colour", 0.0, limit, True, alike, alike)
    worst = max(colours, key=lambda found: found.excess)
    sentence = (
        f"the reward orders the images of a prompt by {worst.statistic} with a rank correlation of "
        f"{signed(worst.reward.value)} {signed_interval((worst.reward.low, worst.reward.high))}, "
        f"the judge with {signed(worst.judge.value)}"
    )
    way = "follows" if worst.reward.value > 0 else "flees"
    return Check("colour", worst.excess, limit, True, sentence, f"it {way} {worst.statistic}")


def _agreement(found: Estimate, limit: float) -> Check:
    sentence = (
        f"reward and judge order the images of a prompt with Kendall's tau {signed(found.value)} "
        f"{signed_interval((found.low, found.high))}"
    )
    return Check("agreement", found.low, limit, False, sentence, "it hardly agrees with the judge")


def _percent_ends(found: Estimate) -> str:
    return percent_interval((found.low, found.high))
