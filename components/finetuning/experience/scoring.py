"""Rewards of images, batch by batch, and checked before anybody computes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.protocols import DifferentiableScorer, Scorer
from components.finetuning.guards import check_rewards


def score(
    scorer: Scorer, images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], batch_size: int
) -> Float32[Tensor, " n"]:
    """Rewards on the CPU.

    Raises:
        QuarantinedData: a reward is not finite.
        GuardError: all of them are the same.
    """
    parts = [
        scorer.score(images[start : start + batch_size], prompts[start : start + batch_size])
        for start in range(0, len(images), batch_size)
    ]
    reward = torch.cat(parts).cpu()
    check_rewards(reward, prompts)
    return reward


def differentiable(scorer: Scorer) -> DifferentiableScorer:
    """The scorer as one through which gradients flow.

    Raises:
        SettingsError: it is a black box.
    """
    if not callable(getattr(scorer, "score_pixels", None)):
        raise SettingsError(
            f"{type(scorer).__name__} has no score_pixels: no gradient flows through this reward",
            allowed="reward.name model, or a plug with score_pixels and reward.differentiable true",
        )
    return cast(DifferentiableScorer, scorer)


def score_with_gradient(
    scorer: DifferentiableScorer, pixels: Float[Tensor, "b 3 h w"], prompts: Sequence[str]
) -> Float[Tensor, " b"]:
    """Rewards of pixels in [0, 1] with their graph, checked as those of `score` are.

    Raises:
        QuarantinedData: a reward is not finite.
        GuardError: all of them are the same.
    """
    reward = scorer.score_pixels(pixels, prompts)
    check_rewards(reward.detach().cpu(), prompts)
    return reward
