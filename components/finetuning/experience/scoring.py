"""Rewards of images, batch by batch, and checked before anybody computes with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from components.contracts.protocols import Scorer
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
