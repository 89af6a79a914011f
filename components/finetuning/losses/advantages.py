"""From rewards to advantages: the one layer in which much of the policy-gradient family differs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

AdvantageKind = Literal["raw", "batch", "group_centred", "group_standardised"]
EPSILON = 1e-6


class Advantages(NamedTuple):
    """Advantages, which samples are kept, and how many groups were dropped."""

    values: Float[Tensor, " b"]
    kept: Bool[Tensor, " b"]
    num_dropped_groups: int


def advantages(
    reward: Float[Tensor, " b"], group: Int64[Tensor, " b"], kind: AdvantageKind
) -> Advantages:
    """Advantages of `kind`; `group` numbers the prompt of each sample with 0, 1, 2 ...

    `raw` is DPOK: the reward itself. `batch` standardises over all samples (DDPO without its
    per-prompt memory). `group_centred` subtracts the mean of the samples of one prompt,
    `group_standardised` also divides by their standard deviation (GRPO, arXiv 2402.03300). A group
    whose rewards are all equal says nothing about its samples: with the group kinds it is dropped
    and counted.

    Worked: rewards (1, 3 | 5, 5) in groups (0, 0 | 1, 1). raw (1, 3, 5, 5); batch: mean 3.5,
    standard deviation √2.75; group_centred (-1, 1, 0, 0), and group 1 is dropped.
    """
    everything = torch.ones_like(group, dtype=torch.bool)
    if kind == "raw":
        return Advantages(reward, everything, 0)
    if kind == "batch":
        return Advantages(batch_standardised(reward), everything, 0)
    varies = group_varies(reward, group)
    values = group_centred(reward, group)
    if kind == "group_standardised":
        values = values / (group_mean(values.square(), group).sqrt() + EPSILON)
    return Advantages(values, varies[group], int((~varies).sum()))


def batch_standardised(reward: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """`(r - mean) / (std + 1e-6)` with the population's standard deviation.

    Worked: (1, 3) has mean 2 and standard deviation 1, so (-1, 1) up to 1e-6.
    """
    return (reward - reward.mean()) / (reward.std(correction=0) + EPSILON)


def group_centred(reward: Float[Tensor, " b"], group: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Reward minus the mean of its group.

    Worked: (1, 3 | 5, 8) becomes (-1, 1 | -1.5, 1.5).
    """
    return reward - group_mean(reward, group)


def group_mean(value: Float[Tensor, " b"], group: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The mean of each sample's group, at the sample's place.

    Worked: (1, 3 | 5) gives (2, 2 | 5).
    """
    counts = torch.bincount(group)
    sums = value.new_zeros(len(counts)).index_add_(0, group, value)
    return (sums / counts.clamp_min(1))[group]


def group_varies(reward: Float[Tensor, " b"], group: Int64[Tensor, " b"]) -> Bool[Tensor, " g"]:
    """Whether the rewards of each group differ; exact, where a computed variance would be rounded.

    Worked: (1, 3 | 5, 5) gives (True, False).
    """
    num_groups = int(group.max()) + 1
    lowest = reward.new_full((num_groups,), torch.inf).scatter_reduce(0, group, reward, "amin")
    highest = reward.new_full((num_groups,), -torch.inf).scatter_reduce(0, group, reward, "amax")
    return highest > lowest
