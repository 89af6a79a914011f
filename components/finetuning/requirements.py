"""What a method needs of the base, the sampler and the reward: checked when settings load.

A combination that cannot work is refused before anything heavy is loaded, in one line that says why
and what would work. Light to import: no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from components.contracts.errors import SettingsError
from components.contracts.settings import BaseSettings, RunSettings

if TYPE_CHECKING:
    from components.finetuning.settings import Settings

Family = Literal["unet", "consistency", "flow"]
FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": "unet",
    "LatentConsistencyModelPipeline": "consistency",
    "StableDiffusion3Pipeline": "flow",
}
"""The family of each pipeline that can be opened."""
DIFFERENTIABLE = "a reward with a gradient (reward.name model, or python with differentiable true)"
"""Rewards through which gradients flow."""


@dataclass(frozen=True)
class Requirements:
    """What a method cannot do without."""

    likelihood: bool = False
    """Steps with a density: a stochastic sampler."""
    differentiable_reward: bool = False
    """A reward through which gradients flow to the pixels."""
    families: tuple[Family, ...] = ("unet", "consistency", "flow")
    """Of the base; a method that is defined for one kind of model names it."""
    min_steps: int = 1
    """Denoising steps of the sampler."""
    judge: bool = False
    """A held-out judge that the monitor watches: the method learns from its own scores."""
    guidance_free: bool = False
    """Images drawn without guidance; a consistency model is only told its weight, which is free."""


class Refusal(NamedTuple):
    """Why a combination cannot work, and what would."""

    reason: str
    allowed: str


def family(base: BaseSettings) -> Family | None:
    """The family of the base, read from its folder; None for a hub name, which is not looked up."""
    try:
        index = json.loads((Path(base.path) / "model_index.json").read_text(encoding="utf-8"))
        return FAMILIES.get(index["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check(settings: Settings, run: RunSettings) -> None:
    """Raises:
    SettingsError: the method cannot work with this base, sampler or reward.
    """
    for refusal in refusals(settings, run.base):
        raise SettingsError(
            f"finetuning: method {settings.method.name} {refusal.reason}", allowed=refusal.allowed
        )


def check_sampler(needs: Requirements, stochastic_steps: Sequence[int]) -> None:
    """The same for a hub name, of which only the opened policy says how it steps.

    Raises:
        SettingsError: a method with likelihoods on a deterministic sampler.
    """
    if needs.likelihood and not stochastic_steps:
        raise SettingsError(
            "the method needs the likelihood of its steps, and none of the sampler's is stochastic",
            allowed="base.eta or base.noise_level above 0, or a method without likelihoods",
        )


def refusals(settings: Settings, base: BaseSettings) -> Iterator[Refusal]:
    """Every reason for which the combination cannot work."""
    needs, kind = settings.method.requires(), family(base)
    if kind is not None and kind not in needs.families:
        yield Refusal(
            f"is defined for {' and '.join(needs.families)} models, base.path is a {kind} model",
            "a base.path of such a model, or another method",
        )
    if needs.likelihood:
        yield from _without_likelihood(base, kind)
    if needs.guidance_free and base.guidance_scale != 1 and kind in ("unet", "flow"):
        yield Refusal(
            "is defined for images drawn without guidance, and base.guidance_scale is "
            f"{base.guidance_scale:g}",
            "guidance_scale 1, or a method that takes guidance (dgpo, ddpo, diffusion_dpo)",
        )
    if base.num_steps < needs.min_steps:
        yield Refusal(
            f"needs base.num_steps of at least {needs.min_steps}, got {base.num_steps}",
            f"num_steps {needs.min_steps} or more",
        )
    if needs.judge and settings.monitor.judge is None:
        yield Refusal(
            "learns from its own scores, and nothing else watches it: monitor.judge is null",
            "a held-out judge as monitor.judge, or method diffusion_dpo",
        )
    if needs.differentiable_reward and not settings.reward.differentiable:
        yield Refusal(
            "sends gradients through the reward, and this reward is a black box",
            f"{DIFFERENTIABLE}, or a method that needs only numbers (ddpo, dpok, prdp)",
        )


def _without_likelihood(base: BaseSettings, kind: Family | None) -> Iterator[Refusal]:
    why = "needs the likelihood of its steps"
    methods = "or a method without likelihoods (diffusion_dpo, nft, awm, draft)"
    if kind == "flow":
        if base.noise_level == 0:
            yield Refusal(
                f"{why}, and base.noise_level 0 is an ODE",
                f"a noise_level above 0, {methods}",
            )
    elif kind == "consistency":
        if base.num_steps < 2:
            yield Refusal(
                f"{why}, and a consistency model's only step is deterministic",
                f"num_steps 2 or more, {methods}",
            )
    elif base.eta == 0:
        yield Refusal(
            f"{why}, and base.eta 0 is a deterministic sampler", f"an eta above 0, {methods}"
        )
