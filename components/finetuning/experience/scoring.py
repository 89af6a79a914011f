"""Rewards of images, batch by batch, and checked before anybody computes with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.protocols import Scorer
from components.finetuning.guards import check_rewards
from components.finetuning.requirements import DIFFERENTIABLE


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


def differentiable(scorer: Scorer) -> Scorer:
    """The scorer itself, if gradients flow through it.

    Raises:
        SettingsError: it is a black box.
    """
    if not scorer.differentiable:
        raise SettingsError("no gradient flows through this reward", allowed=DIFFERENTIABLE)
    return scorer


def score_with_gradient(
    scorer: Scorer, pixels: Float[Tensor, "b 3 h w"], prompts: Sequence[str]
) -> Float[Tensor, " b"]:
    """Rewards of pixels in [0, 1] with their graph, checked as those of `score` are.

    Raises:
        QuarantinedData: a reward is not finite.
        GuardError: all of them are the same.
    """
    reward = scorer.score(pixels, prompts)
    check_rewards(reward.detach().cpu(), prompts)
    return reward
