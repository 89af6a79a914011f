"""From rewards to advantages: the one layer in which much of the policy-gradient family differs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

AdvantageKind = Literal["raw", "batch", "group_centred", "group_standardised", "group_global_std"]
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
    `group_standardised` also divides by their standard deviation (GRPO, arXiv 2402.03300),
    `group_global_std` by that of all rewards (Flow-GRPO's released configurations). A group whose
    rewards are all equal says nothing about its samples: with the group kinds it is dropped and
    counted.

    Worked: rewards (1, 3 | 5, 5) in groups (0, 0 | 1, 1). raw (1, 3, 5, 5); batch: mean 3.5,
    standard deviation √2.75; group_centred (-1, 1, 0, 0), and group 1 is dropped; group_global_std
    divides these by √2.75 too.
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
    elif kind == "group_global_std":
        values = values / (reward.std(correction=0) + EPSILON)
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


def remembered(
    history: Float[Tensor, "p k"], reward: Float[Tensor, " b"], prompt: Int64[Tensor, " b"]
) -> Float[Tensor, "p k"]:
    """The newest k rewards of each prompt, oldest first; NaN where there were fewer, on the left.

    Args:
        history: before, all NaN at the start.
        reward: new ones, in the order in which they come in.
        prompt: row of `history` that each belongs to.

    Worked: k = 2, history (NaN, 1 | NaN, NaN), rewards (2, 3, 4) of prompts (0, 1, 0): prompt 0 has
    seen 1, 2, 4 and keeps (2, 4), prompt 1 keeps (NaN, 3).
    """
    kept = history.clone()
    for row in prompt.unique().tolist():
        kept[row] = torch.cat([history[row], reward[prompt == row]])[-history.shape[1] :]
    return kept


def tracked_advantages(
    reward: Float[Tensor, " b"],
    prompt: Int64[Tensor, " b"],
    history: Float[Tensor, "p k"],
    min_count: int,
) -> Float[Tensor, " b"]:
    """`(r - mean) / (std + 1e-6)` of what is remembered of the sample's prompt (DDPO).

    A prompt of which fewer than `min_count` rewards are remembered takes mean and standard
    deviation of `reward` instead: DDPO (2305.13301) falls back to the batch. `history` holds the
    new rewards already, see `remembered`.

    Worked: rewards (2, 6) of prompts (0, 1), history (0, 2 | NaN, 6), min_count 2. Prompt 0 has
    mean 1 and deviation 1: advantage 1. Prompt 1 has one reward: mean 4 and deviation 2 of the
    batch give 1.
    """
    known = ~history.isnan()
    count = known.sum(1)
    at_least_one = count.clamp_min(1)
    mean = history.nan_to_num().sum(1) / at_least_one
    squares = torch.where(known, history - mean[:, None], 0.0).square().sum(1)
    std = (squares / at_least_one).sqrt()
    enough = (count >= min_count)[prompt]
    centre = torch.where(enough, mean[prompt], reward.mean())
    spread = torch.where(enough, std[prompt], reward.std(correction=0))
    return (reward - centre) / (spread + EPSILON)


def clipped(advantage: Float[Tensor, " b"], limit: float) -> Float[Tensor, " b"]:
    """Advantages in `±limit`.

    Worked: (-7, 2) with a limit of 5 become (-5, 2).
    """
    return advantage.clamp(-limit, limit)
